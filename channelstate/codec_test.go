package channelstate

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	recordpb "github.com/mpegate/mpegate/channelstate/proto/record"
)

// fullRecord has something in every field.
func fullRecord(t testing.TB) *Record {
	record := &Record{Sender: alice, Signer: bob, Nonce: *largest}
	record.Window.Floor = number(5)
	for amount := uint64(10); len(record.Window.Runs) < WindowSize; amount += 300 {
		run := Run{First: number(amount), Last: number(amount)}
		if len(record.Window.Runs)%2 == 0 {
			run.Last, run.Step = number(amount+100), number(50)
		}
		record.Window.Runs = append(record.Window.Runs, run)
	}
	record.Window.Runs[WindowSize-1] = Run{First: *largest, Last: *largest}
	record.Signed, record.Signature, record.Spent = *largest, signatureOf(1, 2), *largest
	record.Previous = &SignedAmount{Amount: number(70), Signature: signatureOf(1, 70)}
	record.Pending = &Claim{
		Channel: number(7), Nonce: number(3), Signed: number(30), Signature: signatureOf(3, 30), Spent: number(20),
		Sender: alice, Signer: bob, Sent: true, Passed: true, ID: newBatchID(),
	}
	record.Batch = newBatchID()
	return record
}

func TestRecordRoundTrip(t *testing.T) {
	for name, record := range map[string]*Record{
		"full":  fullRecord(t),
		"clean": newRecord(channelAt(0)),
		"used":  charged(t, 3, 30, 10, 20),
	} {
		data, err := encodeRecord(record)
		if err != nil {
			t.Fatal(err)
		}
		read, err := decodeRecord(data)
		if err != nil || !reflect.DeepEqual(read, record) {
			t.Errorf("%s: read %+v, error %v, want %+v", name, read, err, record)
		}
		aside := &Aside{Channel: number(7), Reason: AsideNonceAhead, Time: time.Unix(1700000000, 0), Record: record}
		if data, err = encodeAside(aside); err != nil {
			t.Fatal(err)
		}
		if read, err := decodeAside(data); err != nil || !reflect.DeepEqual(&read, aside) {
			t.Errorf("%s: read aside %+v, error %v", name, read, err)
		}
	}
	claim := *fullRecord(t).Pending
	data, err := encodeClaim(&claim)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := decodeClaim(data); err != nil || !reflect.DeepEqual(read, claim) {
		t.Errorf("read claim %+v, error %v", read, err)
	}
}

// What is written by hand is what the generated code would write.
func TestRecordIsEncodedAsItsProto(t *testing.T) {
	for name, record := range map[string]*Record{
		"full": fullRecord(t), "clean": newRecord(channelAt(0)), "first charge": charged(t, 3, 30), "used": charged(t, 3, 30, 10, 20),
	} {
		data, err := encodeRecord(record)
		if err != nil {
			t.Fatal(err)
		}
		message := &recordpb.Record{}
		if err := proto.Unmarshal(data, message); err != nil {
			t.Fatal(err)
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
		if err != nil || !bytes.Equal(again, data) || len(message.ProtoReflect().GetUnknown()) > 0 {
			t.Errorf("%s: encoded as\n%x\nthe generated code has\n%x (error %v)", name, data, again, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for fault, change := range map[string]func(*recordpb.Record){
		"record: format 2 is not known":         func(m *recordpb.Record) { m.Format = 2 },
		"record: format 0 is not known":         func(m *recordpb.Record) { m.Format = 0 },
		"sender is not 20 bytes":                func(m *recordpb.Record) { m.Sender = m.Sender[1:] },
		"signer is not 20 bytes":                func(m *recordpb.Record) { m.Signer = append(m.Signer, 1) },
		"sender is missing":                     func(m *recordpb.Record) { m.Sender = make([]byte, 20) },
		"nonce has more than 256 bits":          func(m *recordpb.Record) { m.Nonce = bytes.Repeat([]byte{1}, 33) },
		"spent is above signed":                 func(m *recordpb.Record) { m.Signed = []byte{0xff} },
		"signature is too long":                 func(m *recordpb.Record) { m.Signature = make([]byte, maxSignature+1) },
		"more runs are accepted":                func(m *recordpb.Record) { m.Accepted = append(m.Accepted, m.Accepted[0]) },
		"the accepted amounts do not ascend":    func(m *recordpb.Record) { m.Accepted[3] = m.Accepted[2] },
		"does not go from first to last":        func(m *recordpb.Record) { m.Accepted[2].Step = []byte{7} },
		"from first to last by its step":        func(m *recordpb.Record) { m.Accepted[2].Last = m.Accepted[2].First },
		"do not ascend from the floor":          func(m *recordpb.Record) { m.Floor = []byte{10} },
		"previous.amount is not below signed":   func(m *recordpb.Record) { m.Previous.Amount = m.Signed },
		"pending.nonce is not below nonce":      func(m *recordpb.Record) { m.Nonce = []byte{3} },
		"claim.spent is above claim.signed":     func(m *recordpb.Record) { m.Pending.Spent = []byte{31} },
		"record: format 7 is not known":         func(m *recordpb.Record) { m.Pending.Format, m.Format = 7, 7 },
		"batch is longer than 8 bytes":          func(m *recordpb.Record) { m.Batch = append(m.Batch, 1) },
		"an accepted amount is above signed":    func(m *recordpb.Record) { m.Signed, m.Spent = []byte{99}, nil },
		"previous.signature is too long":        func(m *recordpb.Record) { m.Previous.Signature = make([]byte, 300) },
		"accepted.first has more than 256 bits": func(m *recordpb.Record) { m.Accepted[0].First = make([]byte, 40) },
		"floor is above signed":                 func(m *recordpb.Record) { m.Floor, m.Accepted, m.Signed, m.Spent = []byte{200}, nil, []byte{100}, nil },
		"claim.channel has more than 256 bits":  func(m *recordpb.Record) { m.Pending.Channel = make([]byte, 33) },
		"claim.id is longer than 8 bytes":       func(m *recordpb.Record) { m.Pending.Id = make([]byte, 9) },
		"claim.sender is not 20 bytes":          func(m *recordpb.Record) { m.Pending.Sender = nil },
	} {
		data, err := encodeRecord(fullRecord(t))
		if err != nil {
			t.Fatal(err)
		}
		message := &recordpb.Record{}
		if err := proto.Unmarshal(data, message); err != nil {
			t.Fatal(err)
		}
		change(message)
		if data, err = proto.Marshal(message); err != nil {
			t.Fatal(err)
		}
		record, err := decodeRecord(data)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fault) || record != nil {
			t.Errorf("%s: error %v", fault, err)
		}
	}
	if _, err := decodeRecord([]byte{0xff}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("not a message: %v", err)
	}
	if _, err := decodeAside(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty aside: %v", err)
	}
	if _, err := decodeClaim(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty claim: %v", err)
	}
}

// What can be read keeps the rules: it is written back as it was, and no
// charge or refund on it breaks what must always hold.
func FuzzDecodeRecord(f *testing.F) {
	for _, record := range []*Record{fullRecord(f), newRecord(channelAt(3)), {Sender: alice, Nonce: number(3), Signed: number(50), Spent: number(20)}} {
		data, err := encodeRecord(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint64(60), uint64(10))
	}
	f.Fuzz(func(t *testing.T, data []byte, amount, price uint64) {
		record, err := decodeRecord(data)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("the error is not ErrCorrupt: %v", err)
			}
			return
		}
		wantReadable(t, record)
		channel := channelAt(0)
		channel.Sender, channel.Signer, channel.Nonce, channel.Value = record.Sender, record.Signer, record.Nonce, *largest
		charge := chargeOf(0, amount, price)
		charge.Nonce = record.Nonce
		charged, _, refusal := record.Charge(channel, charge)
		if refusal == nil {
			wantReadable(t, charged)
			refunded, _ := charged.Refund(&Refund{Nonce: charge.Nonce, Amount: charge.Amount, Price: charge.Price})
			wantReadable(t, refunded)
		}
		if next, claim, err := record.StartClaim(channel); err == nil && !record.Nonce.Eq(largest) {
			wantReadable(t, next)
			if claim.Spent.Gt(&claim.Signed) {
				t.Fatal("the claim spends more than is signed")
			}
		}
	})
}

// wantReadable writes and reads a record: decoding checks what must always hold.
func wantReadable(t *testing.T, record *Record) {
	t.Helper()
	data, err := encodeRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	read, err := decodeRecord(data)
	if err != nil {
		t.Fatalf("a record that was written cannot be read: %v", err)
	}
	if !reflect.DeepEqual(read, record) {
		t.Fatalf("read %+v, want %+v", read, record)
	}
}

func FuzzDecodeClaimAndAside(f *testing.F) {
	claim, err := encodeClaim(fullRecord(f).Pending)
	if err != nil {
		f.Fatal(err)
	}
	aside, err := encodeAside(&Aside{Channel: number(7), Reason: AsideNoncePassed, Time: time.Unix(1, 0), Record: fullRecord(f)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(claim)
	f.Add(aside)
	f.Fuzz(func(t *testing.T, data []byte) {
		if claim, err := decodeClaim(data); err == nil {
			again, err := encodeClaim(&claim)
			if err != nil {
				t.Fatal(err)
			}
			if read, err := decodeClaim(again); err != nil || !reflect.DeepEqual(read, claim) {
				t.Fatalf("read %+v, error %v, want %+v", read, err, claim)
			}
		}
		if aside, err := decodeAside(data); err == nil {
			wantReadable(t, aside.Record)
		}
	})
}

func BenchmarkEncodeRecord(b *testing.B) {
	record := fullRecord(b)
	record.Pending = nil
	for i := range record.Window.Runs {
		record.Window.Runs[i] = Run{First: number(1e16 + uint64(2*i)), Last: number(1e16 + uint64(2*i))}
	}
	record.Signed, record.Spent = number(1e17), number(1e17)
	b.ReportAllocs()
	for b.Loop() {
		data, err := encodeRecord(record)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(data)), "bytes")
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	data, err := encodeRecord(fullRecord(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeRecord(data); err != nil {
			b.Fatal(err)
		}
	}
}
