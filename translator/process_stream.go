package translator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"
)

const (
	readSize = 64 << 10 // that a pipe holds
	// pace is how long answers that follow each other closely are gathered. Each piece of a body becomes a frame of
	// HTTP/2, and Envoy closes a connection, with all calls on it, on which too many of them pile up.
	pace = 2 * time.Millisecond
)

var errCutOff = errors.New("the output ends within a message")

// answerCutter cuts the output of a program into answers.
type answerCutter struct {
	prefixed bool   // by length rather than by lines
	limit    int64  // bytes of one answer
	buffer   []byte // what data is a part of
	data     []byte
	searched int // bytes of data that are known to hold no end of a line
}

// next gives the next answer that is complete; at the end of the output a line needs no line break. What it gives
// lives until more is read.
func (r *answerCutter) next(atEnd bool) (answer []byte, found bool, err error) {
	if r.prefixed {
		answer, found, err = r.nextPrefixed(atEnd)
	} else {
		answer, found = r.nextLine(atEnd)
	}
	if err == nil && (int64(len(answer)) > r.limit || !found && int64(len(r.data)) > r.limit+readSize) {
		err = answerTooLarge(r.limit)
	}
	return answer, found, err
}

func (r *answerCutter) nextLine(atEnd bool) (line []byte, found bool) {
	for {
		end := bytes.IndexByte(r.data[r.searched:], '\n')
		switch {
		case end >= 0:
			end += r.searched
			line, r.data = r.data[:end], r.data[end+1:]
		case atEnd && len(r.data) > 0:
			line, r.data = r.data, nil
		default:
			r.searched = len(r.data)
			return nil, false
		}
		r.searched = 0
		if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) > 0 {
			return line, true
		}
	}
}

func (r *answerCutter) nextPrefixed(atEnd bool) (message []byte, found bool, err error) {
	const prefix = 4
	if len(r.data) >= prefix {
		length := int64(binary.BigEndian.Uint32(r.data))
		if length > r.limit {
			return nil, false, answerTooLarge(r.limit)
		}
		if whole := prefix + int(length); len(r.data) >= whole {
			message, r.data = r.data[prefix:whole], r.data[whole:]
			return message, true, nil
		}
	}
	if atEnd && len(r.data) > 0 {
		return nil, false, badAnswer(errCutOff, "it ends within a message")
	}
	return nil, false, nil
}

// read takes more from the source. The buffer is used again as soon as what is in it has been taken out.
func (r *answerCutter) read(source io.Reader) error {
	if room := cap(r.data) - len(r.data); room < readSize/4 {
		if cap(r.buffer)-len(r.data) < readSize/2 {
			r.buffer = make([]byte, 0, 2*len(r.data)+readSize)
		}
		r.data = append(r.buffer, r.data...)
	}
	end := min(cap(r.data), len(r.data)+readSize)
	count, err := source.Read(r.data[len(r.data):end])
	r.data = r.data[:len(r.data)+count]
	return err
}

// stream passes the answers on as they come.
func (a *processes) stream(c *call, p *process) error {
	cutter := answerCutter{prefixed: a.settings.Stream == StreamLengthPrefixed, limit: a.server.settings.MaxMessageSize}
	if a.settings.Input == InputJSON {
		cutter.limit = a.server.settings.bodyLimit()
	}
	total := int64(0)
	var sent time.Time
	for {
		time.Sleep(pace - time.Since(sent))
		err := cutter.read(p.output)
		atEnd := errors.Is(err, io.EOF)
		if err != nil && !atEnd {
			return badAnswer(err, "it cannot be read")
		}
		some, err := a.passOn(c, &cutter, atEnd, &total)
		if err != nil || atEnd {
			return err
		}
		if some {
			sent = time.Now()
		}
	}
}

// passOn sends all answers that are complete, many in one piece where they are small.
func (a *processes) passOn(c *call, cutter *answerCutter, atEnd bool, total *int64) (some bool, err error) {
	var frames []byte
	for {
		answer, found, cut := cutter.next(atEnd)
		if found && cut == nil {
			if *total += int64(len(answer)); *total > a.settings.MaxOutputSize {
				cut = answerTooLarge(a.settings.MaxOutputSize)
			}
		}
		if found && cut == nil {
			var frame []byte
			if frame, cut = a.frame(c, append(newFrame(len(answer)), answer...)); cut == nil {
				frames = append(frames, frame...)
			}
		}
		done := !found || cut != nil
		if len(frames) >= chunkSize || done && len(frames) > 0 {
			if err := a.send(c, frames); err != nil {
				return some, err
			}
			frames, some = frames[:0], true
		}
		if done {
			return some, cut
		}
	}
}
