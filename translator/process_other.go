//go:build unix && !linux

package translator

// collect waits for the program's end and kills what is left of its group.
func (p *process) collect() {
	state, err := p.child.Wait()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.signal() // the group keeps its number as long as anything is in it
	p.state, p.err = state, err
	p.reaped = true
}
