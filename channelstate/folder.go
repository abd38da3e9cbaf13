package channelstate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// folderLock keeps a second process out of a data folder. etcd has locks of
// its own, but waits for one without a word and ends the process at the other.
type folderLock struct {
	mutex sync.Mutex
	file  *fileutil.LockedFile
	kept  bool
}

// lockFolder makes the folder when it is missing and takes it for this
// process; the system lets go of it when the process ends, however it ends.
func lockFolder(folder string) (*folderLock, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, unusableFolder(folder, err)
	}
	path := filepath.Join(folder, "lock")
	file, err := fileutil.TryLockFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("embedded.data_dir %s is in use by another process%s: stop that one, or give this one its own folder",
			folder, holder(path))
	}
	if err != nil {
		return nil, unusableFolder(folder, err)
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err == nil { // the lock may be on a file made before the folder became read-only
		err = fileutil.IsDirWriteable(folder)
	}
	if err != nil {
		return nil, errors.Join(unusableFolder(folder, err), file.Close())
	}
	return &folderLock{file: file}, nil
}

func unusableFolder(folder string, err error) error {
	return fmt.Errorf("embedded.data_dir %s cannot be written: %w: let the user of this process write there, or set another folder", folder, err)
}

// holder names the process that wrote its number into the lock.
func holder(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, 20))
	if err != nil {
		return ""
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (number %d)", number)
}

// keep says that somebody will release the folder later.
func (l *folderLock) keep() {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.kept = true
}

func (l *folderLock) releaseUnlessKept() {
	l.mutex.Lock()
	kept := l.kept
	l.mutex.Unlock()
	if !kept {
		_ = l.release() // a lock file that cannot be closed is let go of with the process
	}
}

func (l *folderLock) release() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.file == nil {
		return nil
	}
	file := l.file
	l.file = nil
	return file.Close()
}
