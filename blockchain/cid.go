package blockchain

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"google.golang.org/protobuf/encoding/protowire"
)

// Schemes of metadata URIs.
const (
	schemeIPFS     = "ipfs"
	schemeFilecoin = "filecoin"
)

const (
	// maxCIDLength bounds the text of a content id; usual ones have 46 to 62 characters.
	maxCIDLength = 256
	// oneChunk is the size up to which every common tool keeps a file in one block; Kubo's default chunk.
	oneChunk = 256 << 10
	// shortestDigest keeps out digests cut so short that another content for them could be found.
	shortestDigest = 32
)

// reference is a parsed metadata URI.
type reference struct {
	scheme, cid string
}

func (r reference) String() string { return r.scheme + "://" + r.cid }

// parseReference reads what the Registry holds: ipfs://CID, filecoin://CID or a CID alone, which counts as ipfs.
// Publishers pad with NULs and existing readers ignore every character that cannot be part of a CID, so
// that is done here too (section 9 of the payment protocol).
func parseReference(uri string) (reference, error) {
	parsed := reference{scheme: schemeIPFS}
	rest := strings.Trim(uri, "\x00 \t\r\n\"'")
	if scheme, after, found := strings.Cut(rest, "://"); found {
		parsed.scheme, rest = strings.ToLower(scheme), after
	}
	if parsed.scheme != schemeIPFS && parsed.scheme != schemeFilecoin {
		return reference{}, fmt.Errorf("metadata URI %s: its scheme is not supported, publish with ipfs:// or filecoin://", quoted(uri))
	}
	parsed.cid = strings.Map(keepCIDCharacter, rest)
	if parsed.cid == "" || len(parsed.cid) > maxCIDLength {
		return reference{}, fmt.Errorf("metadata URI %s: it holds no content id (CID)", quoted(uri))
	}
	return parsed, nil
}

func keepCIDCharacter(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '=':
		return r
	default:
		return -1
	}
}

// errCannotCheck: the content is a file of several blocks, whose CID is the hash of a tree that the content
// alone does not give.
var errCannotCheck = errors.New("the content was published in several blocks and cannot be checked against its CID")

// checkCID compares content with the CID it was asked for by. It returns nil when it is proved to be the right
// content, errCannotCheck when neither can be told, else a sentence.
func checkCID(text string, content []byte) error {
	id, err := cid.Decode(text)
	if err != nil {
		return fmt.Errorf("%s is not a valid CID (%w): publish the metadata again, or set metadata.check_cid to false to trust the source", quoted(text), err)
	}
	decoded, err := multihash.Decode(id.Hash())
	if err != nil {
		return fmt.Errorf("CID %s: %w", text, err)
	}
	if !soundHash(decoded) {
		return fmt.Errorf("CID %s uses the hash %s of %d bytes, which proves nothing: publish the metadata again with sha2-256",
			text, multihash.Codes[decoded.Code], decoded.Length)
	}
	matches := func(block []byte) bool {
		sum, err := multihash.Sum(block, decoded.Code, decoded.Length)
		return err == nil && bytes.Equal(sum, id.Hash())
	}
	mismatch := fmt.Errorf("the content of %d bytes does not match CID %s: the source gave something else; "+
		"try another one, or set metadata.check_cid to false to trust it", len(content), text)

	switch id.Prefix().Codec {
	case cid.Raw:
		if !matches(content) {
			return mismatch
		}
		return nil
	case cid.DagProtobuf:
		// The flat hash is what publishers make who do not wrap the file.
		if matches(unixFSFile(content)) || matches(content) {
			return nil
		}
		if len(content) > oneChunk {
			return errCannotCheck
		}
		return mismatch
	default:
		return fmt.Errorf("CID %s is not one of a file (codec %#x): publish the metadata again as a file, or set metadata.check_cid to false",
			text, id.Prefix().Codec)
	}
}

// soundHash tells whether finding another content for the digest is out of reach.
func soundHash(hash *multihash.DecodedMultihash) bool {
	if hash.Length < shortestDigest {
		return false
	}
	switch hash.Code {
	case multihash.SHA2_256, multihash.SHA2_512, multihash.SHA3_256, multihash.SHA3_384, multihash.SHA3_512, multihash.BLAKE3:
		return true
	default:
		// BLAKE2B_MIN is the code of 8 bits, each code after it is 8 bits longer.
		return hash.Code >= multihash.BLAKE2B_MIN+shortestDigest-1 && hash.Code <= multihash.BLAKE2B_MAX
	}
}

// unixFSFile is the block that "ipfs add" makes of a file that fits into one chunk: a dag-pb node whose field 1
// holds the UnixFS message {1: type, 2: data, 3: filesize}; specifications "UnixFS" and "DAG-PB" of IPFS.
func unixFSFile(content []byte) []byte {
	const typeFile = 2
	var file []byte
	file = protowire.AppendTag(file, 1, protowire.VarintType)
	file = protowire.AppendVarint(file, typeFile)
	if len(content) > 0 {
		file = protowire.AppendTag(file, 2, protowire.BytesType)
		file = protowire.AppendBytes(file, content)
	}
	file = protowire.AppendTag(file, 3, protowire.VarintType)
	file = protowire.AppendVarint(file, uint64(len(content)))
	node := protowire.AppendTag(nil, 1, protowire.BytesType)
	return protowire.AppendBytes(node, file)
}
