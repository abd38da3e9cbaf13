package channelstate

import (
	"fmt"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/holiman/uint256"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/mpegate/mpegate/channelstate/proto/record"
)

// recordFormat is the format this code reads and writes (record.proto).
const recordFormat = 1

// maxSignature bounds what is kept as a signature, in bytes; real ones have 65.
const maxSignature = 256

// Field numbers of record.proto. Records are written on every call, so they
// are encoded by hand, which takes a third of the time and a fifth of the
// memory; the tests read them with the generated code.
const (
	recordFieldFormat = iota + 1
	recordFieldSender
	recordFieldSigner
	recordFieldNonce
	recordFieldSigned
	recordFieldSignature
	recordFieldSpent
	recordFieldPrevious
	recordFieldFloor
	recordFieldAccepted
	recordFieldPending
	recordFieldBatch

	runFieldFirst = 1
	runFieldLast  = 2
	runFieldStep  = 3

	amountFieldAmount    = 1
	amountFieldSignature = 2
	asideFieldRecord     = 5
)

func encodeRecord(record *Record) ([]byte, error) {
	const fixed = 512 // enough for all but the window, unless a claim is pending
	data := make([]byte, 0, fixed+len(record.Window.Runs)*(2+3*(2+record.Signed.ByteLen())))
	data = protowire.AppendTag(data, recordFieldFormat, protowire.VarintType)
	data = protowire.AppendVarint(data, recordFormat)
	data = appendBytes(data, recordFieldSender, record.Sender[:])
	data = appendBytes(data, recordFieldSigner, record.Signer[:])
	data = appendAmount(data, recordFieldNonce, &record.Nonce)
	data = appendAmount(data, recordFieldSigned, &record.Signed)
	data = appendBytes(data, recordFieldSignature, record.Signature)
	data = appendAmount(data, recordFieldSpent, &record.Spent)
	if previous := record.Previous; previous != nil {
		inner := make([]byte, 0, 128)
		inner = appendAmount(inner, amountFieldAmount, &previous.Amount)
		inner = appendBytes(inner, amountFieldSignature, previous.Signature)
		data = protowire.AppendTag(data, recordFieldPrevious, protowire.BytesType)
		data = protowire.AppendBytes(data, inner) // also when empty: that it is there counts
	}
	data = appendAmount(data, recordFieldFloor, &record.Window.Floor)
	for i := range record.Window.Runs {
		data = appendRun(data, &record.Window.Runs[i])
	}
	if record.Pending != nil {
		pending, err := encodeClaim(record.Pending)
		if err != nil {
			return nil, err
		}
		data = appendBytes(data, recordFieldPending, pending)
	}
	return appendBytes(data, recordFieldBatch, record.Batch[:]), nil
}

func appendRun(data []byte, run *Run) []byte {
	var buffer [3 * (2 + 32)]byte
	inner := appendAmount(buffer[:0], runFieldFirst, &run.First)
	if !run.Step.IsZero() {
		inner = appendAmount(inner, runFieldLast, &run.Last)
		inner = appendAmount(inner, runFieldStep, &run.Step)
	}
	return appendBytes(data, recordFieldAccepted, inner)
}

func appendBytes(data []byte, field protowire.Number, value []byte) []byte {
	if len(value) == 0 {
		return data
	}
	return protowire.AppendBytes(protowire.AppendTag(data, field, protowire.BytesType), value)
}

func appendAmount(data []byte, field protowire.Number, amount *uint256.Int) []byte {
	word := amount.Bytes32()
	return appendBytes(data, field, word[len(word)-amount.ByteLen():])
}

func encodeClaim(claim *Claim) ([]byte, error) {
	return proto.Marshal(&recordpb.Claim{
		Format:    recordFormat,
		Channel:   claim.Channel.Bytes(),
		Nonce:     claim.Nonce.Bytes(),
		Signed:    claim.Signed.Bytes(),
		Signature: claim.Signature,
		Spent:     claim.Spent.Bytes(),
		Sender:    claim.Sender[:],
		Signer:    claim.Signer[:],
		Sent:      claim.Sent,
		Passed:    claim.Passed,
		Id:        claim.ID[:],
	})
}

func encodeAside(aside *Aside) ([]byte, error) {
	data, err := proto.Marshal(&recordpb.Aside{
		Format:      recordFormat,
		Channel:     aside.Channel.Bytes(),
		Reason:      string(aside.Reason),
		UnixSeconds: aside.Time.Unix(),
	})
	if err != nil {
		return nil, err
	}
	record, err := encodeRecord(aside.Record)
	return appendBytes(data, asideFieldRecord, record), err
}

// decodeRecord reads a record and refuses one that breaks the rules: charging
// on it could cost somebody money.
func decodeRecord(data []byte) (*Record, error) {
	var message recordpb.Record
	if err := proto.Unmarshal(data, &message); err != nil {
		return nil, fmt.Errorf("%w: record: %w", ErrCorrupt, err)
	}
	return recordOf(&message)
}

func recordOf(message *recordpb.Record) (*Record, error) {
	d := decoder{what: "record"}
	d.format(message.GetFormat())
	record := &Record{
		Sender:    d.address("sender", message.GetSender()),
		Signer:    d.address("signer", message.GetSigner()),
		Nonce:     d.number("nonce", message.GetNonce()),
		Signed:    d.number("signed", message.GetSigned()),
		Signature: d.signature("signature", message.GetSignature()),
		Spent:     d.number("spent", message.GetSpent()),
		Window:    d.window(message),
	}
	if previous := message.GetPrevious(); previous != nil {
		record.Previous = &SignedAmount{
			Amount:    d.number("previous.amount", previous.GetAmount()),
			Signature: d.signature("previous.signature", previous.GetSignature()),
		}
		d.require(record.Previous.Amount.Lt(&record.Signed), "previous.amount is not below signed")
	}
	if pending := message.GetPending(); pending != nil {
		record.Pending = d.claim(pending)
		d.require(record.Pending.Nonce.Lt(&record.Nonce), "pending.nonce is not below nonce")
	}
	d.require(copy(record.Batch[:], message.GetBatch()) == len(message.GetBatch()), "batch is longer than 8 bytes")
	d.require(record.Sender != (common.Address{}), "sender is missing")
	d.require(!record.Spent.Gt(&record.Signed), "spent is above signed")
	if runs := record.Window.Runs; len(runs) > 0 {
		d.require(!runs[len(runs)-1].Last.Gt(&record.Signed), "an accepted amount is above signed")
	}
	d.require(!record.Window.Floor.Gt(&record.Signed), "floor is above signed")
	if d.err != nil {
		return nil, d.err
	}
	return record, nil
}

func decodeClaim(data []byte) (Claim, error) {
	var message recordpb.Claim
	if err := proto.Unmarshal(data, &message); err != nil {
		return Claim{}, fmt.Errorf("%w: claim: %w", ErrCorrupt, err)
	}
	d := decoder{what: "claim"}
	claim := d.claim(&message)
	if d.err != nil {
		return Claim{}, d.err
	}
	return *claim, nil
}

func decodeAside(data []byte) (Aside, error) {
	var message recordpb.Aside
	if err := proto.Unmarshal(data, &message); err != nil {
		return Aside{}, fmt.Errorf("%w: record set aside: %w", ErrCorrupt, err)
	}
	d := decoder{what: "record set aside"}
	d.format(message.GetFormat())
	channel := d.number("channel", message.GetChannel())
	if d.err != nil {
		return Aside{}, d.err
	}
	record, err := recordOf(message.GetRecord())
	if err != nil {
		return Aside{}, err
	}
	return Aside{
		Channel: channel, Reason: AsideReason(message.GetReason()),
		Time: time.Unix(message.GetUnixSeconds(), 0), Record: record,
	}, nil
}

// decoder keeps the first fault of what it reads.
type decoder struct {
	what string
	err  error
}

func (d *decoder) require(holds bool, fault string) {
	if !holds && d.err == nil {
		d.err = fmt.Errorf("%w: %s: %s", ErrCorrupt, d.what, fault)
	}
}

func (d *decoder) format(format uint32) {
	d.require(format == recordFormat, fmt.Sprintf("format %d is not known here (a newer version of this program wrote it?)", format))
}

func (d *decoder) number(field string, data []byte) (number uint256.Int) {
	d.require(len(data) <= 32, field+" has more than 256 bits")
	if d.err == nil {
		number.SetBytes(data)
	}
	return number
}

func (d *decoder) address(field string, data []byte) (address common.Address) {
	d.require(copy(address[:], data) == common.AddressLength && len(data) == common.AddressLength, field+" is not 20 bytes")
	return address
}

func (d *decoder) signature(field string, data []byte) []byte {
	d.require(len(data) <= maxSignature, field+" is too long")
	if len(data) == 0 {
		return nil
	}
	return data
}

func (d *decoder) window(message *recordpb.Record) Window {
	window := Window{Floor: d.number("floor", message.GetFloor())}
	accepted := message.GetAccepted()
	d.require(len(accepted) <= WindowSize, "more runs are accepted than a window holds")
	if d.err != nil || len(accepted) == 0 {
		return window
	}
	window.Runs = make([]Run, len(accepted))
	below := &window.Floor
	for i, message := range accepted {
		run := d.run(message)
		d.require(run.First.Gt(below), "the accepted amounts do not ascend from the floor")
		window.Runs[i] = run
		below = &window.Runs[i].Last
	}
	return window
}

func (d *decoder) run(message *recordpb.Run) Run {
	first := d.number("accepted.first", message.GetFirst())
	run := single(&first)
	if len(message.GetStep()) == 0 && len(message.GetLast()) == 0 {
		return run
	}
	run.Last, run.Step = d.number("accepted.last", message.GetLast()), d.number("accepted.step", message.GetStep())
	whole := false
	if run.Last.Gt(&run.First) && !run.Step.IsZero() {
		var length uint256.Int
		length.Sub(&run.Last, &run.First)
		whole = length.Mod(&length, &run.Step).IsZero()
	}
	d.require(whole, "a run of accepted amounts does not go from first to last by its step")
	return run
}
func (d *decoder) claim(message *recordpb.Claim) *Claim {
	d.format(message.GetFormat())
	claim := &Claim{
		Channel:   d.number("claim.channel", message.GetChannel()),
		Nonce:     d.number("claim.nonce", message.GetNonce()),
		Signed:    d.number("claim.signed", message.GetSigned()),
		Signature: d.signature("claim.signature", message.GetSignature()),
		Spent:     d.number("claim.spent", message.GetSpent()),
		Sender:    d.address("claim.sender", message.GetSender()),
		Signer:    d.address("claim.signer", message.GetSigner()),
		Sent:      message.GetSent(),
		Passed:    message.GetPassed(),
	}
	d.require(copy(claim.ID[:], message.GetId()) == len(message.GetId()), "claim.id is longer than 8 bytes")
	d.require(!claim.Spent.Gt(&claim.Signed), "claim.spent is above claim.signed")
	return claim
}
