package translator

import (
	"errors"

	"golang.org/x/sys/unix"
)

// collect waits for the program's end and kills what is left of its group before the program is reaped: until then
// its number, which is that of the group, cannot become another's.
func (p *process) collect() {
	for {
		err := unix.Waitid(unix.P_PID, p.child.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.signal()
	p.state, p.err = p.child.Wait()
	p.reaped = true
}
