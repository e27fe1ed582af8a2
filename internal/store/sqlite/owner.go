package sqlite

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// OwnerInfo is what a process that has a store open says of itself.
type OwnerInfo struct {
	PID    int       `json:"pid"`
	Opened time.Time `json:"opened"`        // when it opened the store
	BootID string    `json:"boot_id"`       // of the kernel it runs on
	Host   string    `json:"host"`          //
	URL    string    `json:"url,omitempty"` // where it can be reached, once it listens

	Command string `json:"command,omitempty"` // what it was started as, such as "dayfly run"
	Passing bool   `json:"passing,omitempty"` // it has the store open only until that command ends
}

// OwnedError is why a store cannot be opened: another process has it open. It is a fault.Conflict.
type OwnedError struct {
	Path string
	Info OwnerInfo // zero if the other has not said who it is
}

// Error names the owner.
func (e *OwnedError) Error() string {
	text := fmt.Sprintf("%s is in use by another process", e.Path)
	if e.Info.PID != 0 {
		text = fmt.Sprintf("%s is in use by process %d on %s since %s", e.Path, e.Info.PID, e.Info.Host,
			e.Info.Opened.Format(time.RFC3339))
	}
	if e.Info.URL != "" {
		text += ", which serves it at " + e.Info.URL
	}
	return text
}

// Unwrap returns the kind.
func (e *OwnedError) Unwrap() error { return fault.Conflict }

// Owner returns what the process that has the store at path open says of itself. It is fault.NotFound if no process
// has it open, whatever an earlier one, or one before the last reboot, may have left behind.
func Owner(path string) (*OwnerInfo, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path + lockSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sqlite: owner of %s: %w", path, fault.NotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: owner of %s: %w: %w", path, fault.Denied, err)
	}
	defer file.Close()
	switch err := flock(file, unix.LOCK_SH); {
	case err == nil:
		return nil, fmt.Errorf("sqlite: owner of %s: %w", path, fault.NotFound)
	case !errors.Is(err, unix.EWOULDBLOCK):
		return nil, fmt.Errorf("sqlite: owner of %s: %w: %w", path, fault.Internal, err)
	}
	info := readOwner(path)
	return &info, nil
}

// The files beside the database. The first is locked for as long as a process has the store open; a lock ends with
// its process, however that ends, so that nothing a dead process leaves behind keeps anybody out. The second says who
// it is and is only believed while the first is locked.
const (
	lockSuffix  = ".lock"
	ownerSuffix = ".owner"
)

// lockPatience is how long a lock that is taken is asked for again: somebody may just be looking, as Owner does.
const lockPatience = 250 * time.Millisecond

// ownership is the right to open a store.
type ownership struct {
	path string
	lock *os.File
	info OwnerInfo
}

// own takes the store at path, or returns an *OwnedError.
func own(path string, options *Options) (*ownership, error) {
	lock, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w: %w", path, fault.Unavailable, err)
	}
	for deadline := time.Now().Add(lockPatience); ; {
		err = flock(lock, unix.LOCK_EX)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		_ = lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &OwnedError{Path: path, Info: readOwner(path)}
		}
		return nil, fmt.Errorf("sqlite: lock %s: %w: %w", path, fault.Unavailable, err)
	}
	host, _ := os.Hostname() // only to show
	o := &ownership{path: path, lock: lock, info: OwnerInfo{
		PID: os.Getpid(), Opened: time.Now().UTC().Truncate(time.Second), BootID: bootID(), Host: host,
		Command: options.Command, Passing: options.Passing,
	}}
	if err := o.write(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return o, nil
}

// write replaces the owner's file, at once or not at all.
func (o *ownership) write() error {
	data, err := json.Marshal(&o.info)
	if err != nil {
		return fmt.Errorf("sqlite: owner of %s: %w: %w", o.path, fault.Internal, err)
	}
	fresh := o.path + ownerSuffix + ".new"
	_ = os.Remove(fresh) // of a process that died here; we hold the lock
	err = os.WriteFile(fresh, data, 0o600)
	if err == nil {
		err = os.Rename(fresh, o.path+ownerSuffix)
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("sqlite: owner of %s: %w: %w", o.path, fault.StoreFull, err)
	case err != nil:
		return fmt.Errorf("sqlite: owner of %s: %w: %w", o.path, fault.Unavailable, err)
	}
	return nil
}

// release gives the store up. The lock's file stays: removing it could take away the one that somebody has just locked.
func (o *ownership) release() error {
	_ = os.Remove(o.path + ownerSuffix)
	return o.lock.Close()
}

// readOwner returns what is written about the owner of the store, or zero.
func readOwner(path string) OwnerInfo {
	var info OwnerInfo
	data, err := os.ReadFile(path + ownerSuffix)
	if err != nil || json.Unmarshal(data, &info) != nil {
		return OwnerInfo{}
	}
	return info
}

func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// bootID identifies one run of the kernel, or is "" where the kernel does not tell.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// realPath returns the one path that all names of the file at path lead to, so that they share one lock. The file
// itself need not exist.
func realPath(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err == nil {
		if real, err := filepath.EvalSymlinks(absolute); err == nil {
			return real, nil
		}
		var folder string
		if folder, err = filepath.EvalSymlinks(filepath.Dir(absolute)); err == nil {
			return filepath.Join(folder, filepath.Base(absolute)), nil
		}
	}
	return "", fmt.Errorf("sqlite: %s: %w: %w", path, fault.Invalid, err)
}
