package translator

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
)

// A gRPC frame is a flag byte (1: compressed), the length in four bytes, big-endian, and the message
// (gRPC over HTTP/2, "Length-Prefixed-Message").
const frameHeader = 5

// firstGrow bounds the memory that a frame takes by announcing a length alone.
const firstGrow = 64 << 10

// frameReader takes the one message of a call out of a request body that comes in pieces.
type frameReader struct {
	limit    int64  // bytes of the message, compressed or not
	encoding string // the call's grpc-encoding
	data     []byte
}

// add takes the next piece, which the reader may keep. It fails as soon as the body cannot be right any more.
func (r *frameReader) add(piece []byte) error {
	if len(r.data) == 0 {
		r.data = piece
	} else {
		if wanted := r.wanted(); wanted > cap(r.data) {
			r.data = slices.Grow(r.data, max(len(piece), min(wanted, max(2*len(r.data), firstGrow))-len(r.data)))
		}
		r.data = append(r.data, piece...)
	}
	if len(r.data) == 0 {
		return nil
	}
	if flag := r.data[0]; flag > 1 {
		return badFrame("its first byte is %d, not 0 or 1", flag)
	}
	if len(r.data) < frameHeader {
		return nil
	}
	switch length := r.length(); {
	case length > r.limit:
		return tooLarge(r.limit)
	case int64(len(r.data)-frameHeader) > length:
		return severalMessages()
	}
	return nil
}

// wanted is the whole length of the frame, header included, 0 while that is not known.
func (r *frameReader) wanted() int {
	if len(r.data) < frameHeader {
		return 0
	}
	return frameHeader + int(r.length())
}

func (r *frameReader) length() int64 {
	return int64(binary.BigEndian.Uint32(r.data[1:frameHeader]))
}

// message gives the message once the body has ended. It lives as long as the pieces do.
func (r *frameReader) message() ([]byte, error) {
	switch {
	case len(r.data) == 0:
		return nil, noMessage()
	case len(r.data) < frameHeader || int64(len(r.data)-frameHeader) < r.length():
		return nil, badFrame("the body ends within it")
	}
	content := r.data[frameHeader:]
	if r.data[0] == 0 {
		return content, nil
	}
	switch r.encoding {
	case "gzip":
		return r.inflated(content)
	case "", "identity":
		return nil, badFrame("it is marked as compressed, but the call names no grpc-encoding")
	default:
		return nil, fail(unsupportedCompression, nil, "messages compressed with %q cannot be read: use gzip or none", shown(r.encoding))
	}
}

func (r *frameReader) inflated(content []byte) ([]byte, error) {
	message, err := gunzip(content, r.limit)
	switch {
	case errors.Is(err, errTooLong):
		return nil, tooLarge(r.limit)
	case err != nil:
		return nil, badFrame("its message is not gzip data")
	}
	return message, nil
}

var (
	errTooLong = errors.New("more bytes than allowed")
	inflaters  = sync.Pool{New: func() any { return new(gzip.Reader) }}
)

// gunzip inflates data, to at most limit bytes.
func gunzip(data []byte, limit int64) ([]byte, error) {
	inflater := inflaters.Get().(*gzip.Reader)
	defer inflaters.Put(inflater)
	if err := inflater.Reset(bytes.NewReader(data)); err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	count, err := plain.ReadFrom(io.LimitReader(inflater, limit+1))
	if count > limit {
		return nil, errTooLong
	}
	return plain.Bytes(), err
}

// newFrame gives an empty frame with room for a message of about size bytes. The message is appended to it.
func newFrame(size int) []byte {
	return make([]byte, frameHeader, frameHeader+size)
}

// finishFrame writes the header of a frame to which an uncompressed message was appended. limit is in bytes.
func finishFrame(frame []byte, limit int64) ([]byte, error) {
	length := int64(len(frame) - frameHeader)
	if length > limit {
		return nil, answerTooLarge(limit)
	}
	frame[0] = 0
	binary.BigEndian.PutUint32(frame[1:frameHeader], uint32(length))
	return frame, nil
}

// shown is text of a client as it may stand in a message: bounded.
func shown(text string) string {
	const most = 64
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
