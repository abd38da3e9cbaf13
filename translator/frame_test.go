package translator

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"testing"
)

func framed(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

func gzipped(data []byte) []byte {
	var buffer bytes.Buffer
	writer := gzip.NewWriter(&buffer)
	_, _ = writer.Write(data)
	_ = writer.Close()
	return buffer.Bytes()
}

const testLimit = 1000

func TestFrames(t *testing.T) {
	large := bytes.Repeat([]byte("x"), testLimit)
	for _, c := range []struct {
		name, encoding string
		body           []byte
		message        []byte
		cause          cause
	}{
		{"a message", "", framed(0, []byte("message")), []byte("message"), answered},
		{"an empty message", "", framed(0, nil), nil, answered},
		{"the largest message", "", framed(0, large), large, answered},
		{"gzip", "gzip", framed(1, gzipped([]byte("message"))), []byte("message"), answered},
		{"the largest message in gzip", "gzip", framed(1, gzipped(large)), large, answered},
		{"gzip announced, not used", "gzip", framed(0, []byte("message")), []byte("message"), answered},
		{"nothing", "", nil, nil, wrongMessageCount},
		{"half a header", "", []byte{0, 0, 0}, nil, malformedFrame},
		{"a header alone", "", framed(0, []byte("message"))[:5], nil, malformedFrame},
		{"half a message", "", framed(0, []byte("message"))[:8], nil, malformedFrame},
		{"two messages", "", append(framed(0, []byte("a")), framed(0, []byte("b"))...), nil, wrongMessageCount},
		{"two empty messages", "", make([]byte, 10), nil, wrongMessageCount},
		{"a message and rubbish", "", append(framed(0, []byte("a")), 0), nil, wrongMessageCount},
		{"another flag", "", framed(2, []byte("a")), nil, malformedFrame},
		{"the flag of gRPC-Web's trailers", "", framed(0x80, []byte("a")), nil, malformedFrame},
		{"too large", "", framed(0, append(large, 'x')), nil, messageTooLarge},
		{"the largest length", "", []byte{0, 0xff, 0xff, 0xff, 0xff}, nil, messageTooLarge},
		{"too large in gzip", "gzip", framed(1, gzipped(append(large, 'x'))), nil, messageTooLarge},
		{"a gzip bomb", "gzip", framed(1, gzipped(make([]byte, 500_000))[:testLimit]), nil, messageTooLarge},
		{"no gzip", "gzip", framed(1, []byte("message")), nil, malformedFrame},
		{"gzip that ends early", "gzip", framed(1, gzipped([]byte("message"))[:15]), nil, malformedFrame},
		{"compressed by nothing", "", framed(1, []byte("message")), nil, malformedFrame},
		{"compressed by identity", "identity", framed(1, []byte("message")), nil, malformedFrame},
		{"another compression", "snappy", framed(1, []byte("message")), nil, unsupportedCompression},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 7, len(c.body) + 1} {
				message, err := readInPieces(c.body, c.encoding, size)
				got := answered
				if err != nil {
					got = asFailure(err).cause
				}
				if got != c.cause || !bytes.Equal(message, c.message) {
					t.Fatalf("in pieces of %d: %q, %v; want %q, %s", size, message, err, c.message, c.cause)
				}
			}
		})
	}
}

func readInPieces(body []byte, encoding string, size int) ([]byte, error) {
	reader := frameReader{limit: testLimit, encoding: encoding}
	for len(body) > 0 {
		piece := bytes.Clone(body[:min(size, len(body))])
		body = body[len(piece):]
		if err := reader.add(piece); err != nil {
			return nil, err
		}
	}
	return reader.message()
}

// A frame that only says that it is large takes no memory for that.
func TestFrameAnnouncesMuch(t *testing.T) {
	reader := frameReader{limit: 1 << 30}
	for _, piece := range [][]byte{{0, 0x3f}, {0, 0, 0}, []byte("x"), []byte("y")} {
		if err := reader.add(piece); err != nil {
			t.Fatal(err)
		}
	}
	if cap(reader.data) > 2*firstGrow {
		t.Errorf("%d bytes are held for a body of 7", cap(reader.data))
	}
}

func TestFinishFrame(t *testing.T) {
	frame, err := finishFrame(append(newFrame(0), "message"...), 7)
	if err != nil || !bytes.Equal(frame, framed(0, []byte("message"))) {
		t.Errorf("%q, %v", frame, err)
	}
	if _, err := finishFrame(append(newFrame(0), "message"...), 6); err == nil || asFailure(err).cause != serviceAnswerTooLarge {
		t.Errorf("%v", err)
	}
}

// However a body is cut, the same comes of it, and what comes is never more than allowed.
func FuzzFrames(f *testing.F) {
	f.Add(framed(0, []byte("message")), "", byte(3))
	f.Add(framed(1, gzipped([]byte("message"))), "gzip", byte(1))
	f.Add(framed(1, gzipped(make([]byte, 100_000))), "gzip", byte(200))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, "identity", byte(2))
	f.Fuzz(func(t *testing.T, body []byte, encoding string, size byte) {
		whole, wholeErr := readInPieces(body, encoding, len(body)+1)
		pieces, piecesErr := readInPieces(body, encoding, int(size)+1)
		if (wholeErr == nil) != (piecesErr == nil) || !bytes.Equal(whole, pieces) {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, wholeErr, pieces, piecesErr)
		}
		if wholeErr != nil {
			if asFailure(wholeErr).cause == undecided {
				t.Fatalf("an error without a cause: %v", wholeErr)
			}
			return
		}
		if len(whole) > testLimit {
			t.Fatalf("a message of %d bytes", len(whole))
		}
		if body[0] == 0 && !bytes.Equal(framed(0, whole), body) {
			t.Fatalf("%q is read from %q", whole, body)
		}
	})
}
