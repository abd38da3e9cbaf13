package harness

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// IPFS answers the one call of an IPFS node's RPC that mpegate makes (`cat`), with content that hashes to its CID.
type IPFS struct {
	URL string

	t       testing.TB
	mutex   sync.Mutex
	content map[string]string
	reads   int
}

// NewIPFS starts an empty node.
func NewIPFS(t testing.TB) *IPFS {
	node := &IPFS{t: t, content: map[string]string{}}
	server := httptest.NewServer(http.HandlerFunc(node.answer))
	t.Cleanup(server.Close)
	node.URL = server.URL
	return node
}

// Add stores a file as one raw block and returns its CID.
func (n *IPFS) Add(content string) string {
	n.t.Helper()
	digest, err := multihash.Sum([]byte(content), multihash.SHA2_256, -1)
	if err != nil {
		n.t.Fatal(err)
	}
	id := cid.NewCidV1(cid.Raw, digest).String()
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.content[id] = content
	return id
}

// Reads is how many files have been asked for.
func (n *IPFS) Reads() int {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return n.reads
}

func (n *IPFS) answer(writer http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost || request.URL.Path != "/api/v0/cat" {
		http.Error(writer, "this node answers only POST /api/v0/cat", http.StatusNotFound)
		return
	}
	n.mutex.Lock()
	content, known := n.content[request.URL.Query().Get("arg")]
	n.reads++
	n.mutex.Unlock()
	if !known {
		http.Error(writer, `{"Message": "block was not found", "Code": 0, "Type": "error"}`, http.StatusInternalServerError)
		return
	}
	_, _ = writer.Write([]byte(content))
}
