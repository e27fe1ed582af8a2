package hire

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// record is what is remembered of a hired machine. It is written before the machine is asked for, and removed when it is gone.
type record struct {
	Provider string    `json:"provider"`
	Name     string    `json:"name"`
	Tenant   string    `json:"tenant"`             // whose token it was
	HiredBy  string    `json:"hired_by"`           // the owner, as whoever hired it calls himself
	Holder   string    `json:"holder"`             // who holds the lease; "" only of a machine that is not written down
	Programs []string  `json:"programs,omitempty"` // the digests of the uploaded programs that it may run
	Created  time.Time `json:"created"`
	// Of one that is kept for a fleet, which nobody's lease ends: its name, what the machine is made as, and its end date.
	Fleet string    `json:"fleet,omitempty"`
	Kind  string    `json:"kind,omitempty"`
	Ends  time.Time `json:"ends,omitzero"`
}

// ledger is a directory with a file for each hired machine.
type ledger string

func (l ledger) file(at place) string {
	return filepath.Join(string(l), at.provider+"."+at.name) // neither has a dot or a slash in it
}

// open makes the directory and returns what is in it.
func (l ledger) open() ([]*record, error) {
	if err := os.MkdirAll(string(l), 0o700); err != nil {
		return nil, unavailable(err)
	}
	entries, err := os.ReadDir(string(l))
	if err != nil {
		return nil, unavailable(err)
	}
	var all []*record
	for _, entry := range entries {
		file := filepath.Join(string(l), entry.Name())
		text, err := os.ReadFile(file)
		r := &record{}
		if err == nil {
			err = json.Unmarshal(text, r)
		}
		if err != nil || strings.HasSuffix(file, unfinished) {
			// It was being written when the computer lost its power; whether there is a machine the provider knows.
			if err := os.Remove(file); err != nil {
				return nil, unavailable(err)
			}
			continue
		}
		all = append(all, r)
	}
	return all, nil
}

// unfinished is the end of the name of a file that is being written.
const unfinished = ".new"

// write is on the disk when it returns nil.
func (l ledger) write(r *record) error {
	if err := failpoint.Hit("hire.write.before"); err != nil {
		return err
	}
	if err := l.put(r); err != nil {
		return err
	}
	return failpoint.Hit("hire.write.after")
}

func (l ledger) put(r *record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return unavailable(err)
	}
	file := l.file(place{r.Provider, r.Name})
	f, err := os.OpenFile(file+unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return unavailable(err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(file+unfinished, file)
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

func (l ledger) remove(at place) error {
	if err := failpoint.Hit("hire.remove.before"); err != nil {
		return err
	}
	if err := os.Remove(l.file(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unavailable(err)
	}
	return failpoint.Hit("hire.remove.after")
}

func unavailable(err error) error {
	return fault.Say(fault.Unavailable, "the server cannot write down what is hired: %v", err)
}
