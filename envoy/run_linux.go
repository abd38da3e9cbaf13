package envoy

import "syscall"

// childAttributes let the kernel end the child with the thread that started it, and so with this process
// even after kill -9. Its own process group keeps a Ctrl-C at the terminal from it: we drain it first.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
