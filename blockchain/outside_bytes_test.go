package blockchain

import (
	"encoding/json"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
)

// What a node or a contract at a wrong address answers is outside data.

func FuzzDecodeChannel(f *testing.F) {
	f.Add(make([]byte, channelWords*wordLength))
	f.Add(make([]byte, channelWords*wordLength-1))
	f.Fuzz(func(t *testing.T, output []byte) {
		channel, err := decodeChannel(output)
		if (err == nil) != (len(output) >= channelWords*wordLength) {
			t.Fatalf("%d bytes: %v", len(output), err)
		}
		if err != nil && channel.Exists() {
			t.Fatal("a channel beside an error")
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	for _, known := range []common.Hash{topicOpen, topicClaim, topicSenderClaim, topicExtend, topicAddFunds} {
		f.Add(append(known.Bytes(), make([]byte, 32)...), make([]byte, 64))
		f.Add(known.Bytes(), []byte{})
	}
	f.Fuzz(func(t *testing.T, topics, data []byte) {
		log := types.Log{Data: data}
		for ; len(topics) >= common.HashLength && len(log.Topics) < 4; topics = topics[common.HashLength:] {
			log.Topics = append(log.Topics, common.Hash(topics[:common.HashLength]))
		}
		if event, ok := decodeEvent(&log); ok && event.Kind == 0 {
			t.Fatal("an event of no kind")
		}
	})
}

func FuzzRegistryAnswer(f *testing.F) {
	parsed, err := parsedRegistryABI()
	if err != nil {
		f.Fatal(err)
	}
	registry := &Registry{abi: parsed}
	good, err := parsed.Methods["getServiceRegistrationById"].Outputs.Pack(true, [32]byte{'x'}, []byte("ipfs://Qm\x00\x00"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:64])
	f.Fuzz(func(t *testing.T, output []byte) {
		for _, method := range []string{"getOrganizationById", "getServiceRegistrationById"} {
			uri, found, err := registry.decodeURI(method, output)
			if err == nil && found && (uri == "" || len(uri) > registryURILength) {
				t.Fatalf("found with the URI %q", uri)
			}
		}
	})
}

func FuzzBlockHeader(f *testing.F) {
	f.Add([]byte(`{"number":"0x1","hash":"0x0000000000000000000000000000000000000000000000000000000000000001","parentHash":"0x0000000000000000000000000000000000000000000000000000000000000000"}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"number":null,"hash":null}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		var header *rpcHeader
		if err := json.Unmarshal(answer, &header); err != nil {
			return
		}
		if _, err := header.parse(); err == nil && (header.Number == nil || header.Hash == nil || header.ParentHash == nil) {
			t.Fatal("an incomplete header was accepted")
		}
	})
}
