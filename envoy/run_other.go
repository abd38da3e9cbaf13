//go:build !linux

package envoy

import "syscall"

// childAttributes keep a Ctrl-C at the terminal from the child: we drain it first. There is no way here to
// have it end with us after kill -9.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
