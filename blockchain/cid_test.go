package blockchain

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func cidOf(t testing.TB, codec, hash uint64, length int, block []byte) string {
	t.Helper()
	sum, err := multihash.Sum(block, hash, length)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(codec, sum).String()
}

// cidV0Of is what "ipfs add" prints for a file of one chunk.
func cidV0Of(t testing.TB, block []byte) string {
	t.Helper()
	sum, err := multihash.Sum(block, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV0(sum).String()
}

func TestCheckCID(t *testing.T) {
	text := []byte(`{"display_name":"x"}`)
	large := bytes.Repeat([]byte("0123456789abcdef"), oneChunk/16+1)
	tests := map[string]struct {
		cid     string
		content []byte
		want    string // "" = proved, else part of the error
	}{
		// Printed by "ipfs add" for these contents.
		"ipfs add":             {"QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o", []byte("hello world\n"), ""},
		"ipfs add, empty file": {"QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH", nil, ""},
		"raw leaves":           {"bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", []byte("hello world"), ""},

		"other content":              {"QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o", []byte("hello world"), "metadata.check_cid"},
		"raw, other content":         {"bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", []byte("hello"), "metadata.check_cid"},
		"version 1 dag-pb":           {cidOf(t, cid.DagProtobuf, multihash.SHA2_256, -1, unixFSFile(text)), text, ""},
		"flat hash as version 0":     {cidV0Of(t, text), text, ""},
		"sha2-512":                   {cidOf(t, cid.Raw, multihash.SHA2_512, -1, text), text, ""},
		"sha3-256":                   {cidOf(t, cid.Raw, multihash.SHA3_256, -1, text), text, ""},
		"blake2b-256":                {cidOf(t, cid.Raw, multihash.BLAKE2B_MIN+31, -1, text), text, ""},
		"blake3":                     {cidOf(t, cid.Raw, multihash.BLAKE3, 32, text), text, ""},
		"large in one block":         {cidV0Of(t, unixFSFile(large)), large, ""},
		"large and raw":              {cidOf(t, cid.Raw, multihash.SHA2_256, -1, large), large, ""},
		"large and raw, other":       {cidOf(t, cid.Raw, multihash.SHA2_256, -1, text), large, "metadata.check_cid"},
		"large in several blocks":    {cidV0Of(t, []byte("root of a tree")), large, errCannotCheck.Error()},
		"exactly one chunk, other":   {cidV0Of(t, []byte("root of a tree")), large[:oneChunk], "metadata.check_cid"},
		"sha1 can be forged":         {cidOf(t, cid.Raw, multihash.SHA1, -1, text), text, "proves nothing"},
		"digest cut short":           {cidOf(t, cid.Raw, multihash.SHA2_256, 8, text), text, "proves nothing"},
		"blake2b cut short":          {cidOf(t, cid.Raw, multihash.BLAKE2B_MIN+7, -1, text), text, "proves nothing"},
		"no hash at all":             {cidOf(t, cid.Raw, multihash.IDENTITY, -1, text), text, "proves nothing"},
		"not a file":                 {cidOf(t, cid.DagCBOR, multihash.SHA2_256, -1, text), text, "not one of a file"},
		"not a CID":                  {"QmExample", text, "not a valid CID"},
		"45 characters":              {"QmExampleExampleExampleExampleExampleExampleE", text, "not a valid CID"},
		"raw of nothing is provable": {cidOf(t, cid.Raw, multihash.SHA2_256, -1, nil), nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := checkCID(test.cid, test.content)
			if test.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestParseReference(t *testing.T) {
	const id = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"
	tests := map[string]struct{ uri, want, fault string }{
		"ipfs":                {"ipfs://" + id, "ipfs://" + id, ""},
		"filecoin":            {"filecoin://" + id, "filecoin://" + id, ""},
		"a CID alone":         {id, "ipfs://" + id, ""},
		"NUL padded":          {"ipfs://" + id + strings.Repeat("\x00", 11), "ipfs://" + id, ""},
		"line end":            {"filecoin://" + id + "\n", "filecoin://" + id, ""},
		"quotes":              {`"ipfs://` + id + `"`, "ipfs://" + id, ""},
		"scheme in capitals":  {"IPFS://" + id, "ipfs://" + id, ""},
		"NULs inside":         {"ipfs://\x00" + id, "ipfs://" + id, ""},
		"empty":               {"", "", "no content id"},
		"only NULs":           {"\x00\x00", "", "no content id"},
		"only a scheme":       {"ipfs://", "", "no content id"},
		"web address":         {"https://example.com/" + id, "", "not supported"},
		"local file":          {"file:///etc/passwd", "", "not supported"},
		"very long":           {"ipfs://" + strings.Repeat("Q", 300), "", "no content id"},
		"no way to add a key": {"ipfs://" + id + "&arg=Qmother", "ipfs://" + id + "arg=Qmother", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseReference(test.uri)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("error %v, want %q", err, test.fault)
				}
				return
			}
			if err != nil || got.String() != test.want {
				t.Errorf("%s, %v; want %s", got, err, test.want)
			}
		})
	}
}

func FuzzCheckCID(f *testing.F) {
	f.Add("QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o", []byte("hello world\n"))
	f.Add("bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e", []byte("hello world"))
	f.Add("z", []byte{})
	f.Fuzz(func(t *testing.T, uri string, content []byte) {
		parsed, err := parseReference(uri)
		if err != nil {
			return
		}
		if strings.ContainsAny(parsed.cid, "&/?#% ") {
			t.Errorf("%q could leave its place in a URL", parsed.cid)
		}
		if err := checkCID(parsed.cid, content); err == nil {
			// What is proved must stop being so when the content changes.
			if changed := checkCID(parsed.cid, append(bytes.Clone(content), 0)); changed == nil || errors.Is(changed, errCannotCheck) {
				t.Errorf("%s proves two contents: %v", parsed.cid, changed)
			}
		}
	})
}
