package server

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// Owner is a process that serves a data directory.
type Owner struct {
	PID   int
	URL   string // for this computer; "" while it is starting
	Token string // the owner's token

	Command string // what it was started as, such as "dayfly run"; "" if it has not said
	Passing bool   // it serves only until that ends
}

// FindOwner returns the process that serves the data directory, or fault.NotFound. fault.Invalid, with a sentence, if
// that cannot be found out because the directory is none, or not this user's.
func FindOwner(dir string) (*Owner, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("server: %s: %w", dir, fault.NotFound)
	}
	info, err := sqlite.Owner(databasePath(dir))
	if fault.Of(err) == fault.Denied {
		cause := err
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			cause = path.Err
		}
		return nil, fault.Say(fault.Invalid, "the data directory %s cannot be used: %v; name another in DAYFLY_DATA_DIR", dir, cause)
	}
	if err != nil {
		return nil, err
	}
	owner := &Owner{PID: info.PID, URL: info.URL, Command: info.Command, Passing: info.Passing}
	if info.URL != "" {
		if owner.Token, err = ownerToken(dir); err != nil {
			return nil, err
		}
	}
	return owner, nil
}

// inUse says who serves the data directory, what kind of server that is, and what to do about it.
func inUse(dir string, owner *sqlite.OwnerInfo) error {
	who := "another process"
	if owner.PID != 0 {
		who = fmt.Sprintf("process %d", owner.PID)
	}
	if here, err := os.Hostname(); err == nil && owner.Host != "" && owner.Host != here {
		who += " on " + owner.Host
	}
	const elsewhere = "name another directory with --data-dir or DAYFLY_DATA_DIR"
	if owner.Passing {
		return fault.Say(fault.Conflict, "the data directory %s is in use by %s, a %s that serves itself until its command ends; "+
			"wait for that, or %s", dir, who, cmp.Or(owner.Command, "program"), elsewhere)
	}
	if owner.Command != "" {
		who += ", a " + owner.Command
	}
	if !owner.Opened.IsZero() {
		who += " since " + owner.Opened.Local().Format(time.DateTime)
	}
	if owner.URL != "" {
		who += " at " + owner.URL
	}
	return fault.Say(fault.Conflict, "the data directory %s is in use by %s; use that server, stop it first, or %s", dir, who, elsewhere)
}
