//go:build !linux

package child

import "syscall"

// childAttributes puts a part into its own process group, so that Ctrl-C at the terminal reaches the demo alone, which
// then ends its parts in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
