package wheel

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFetchContractsFromPackageIndexThenOffline(t *testing.T) {
	t.Setenv("MPEGATE_CACHE", t.TempDir())
	var lines lockedLines
	folder, err := Fetch(t.Context(), Contracts, &lines)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"abi/MultiPartyEscrow.json", "bytecode/MultiPartyEscrow.json"} {
		if _, err := os.Stat(filepath.Join(folder, ContractsResources, name)); err != nil {
			t.Error(err)
		}
	}
	if lines.text() == "" {
		t.Error("no progress was shown")
	}

	t.Setenv("PATH", "") // now nothing could be downloaded
	again, err := Fetch(t.Context(), Contracts, nil)
	if err != nil || again != folder {
		t.Errorf("from the cache: %q, %v; want %q", again, err, folder)
	}
}
