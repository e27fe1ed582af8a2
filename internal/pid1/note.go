package pid1

import (
	"encoding/json"
	"os"
	"syscall"

	"github.com/dayfly-run/dayfly/machine"
)

// Note is a file in a container by which its first process tells the engine's clients what the engine may not know: that the
// machine has begun, and how it ended when a status does not say it.
type Note struct{ file *os.File }

// Begin writes an empty line into a file that exists: not whoever may write it may make others beside it.
func Begin(name string) (*Note, error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteString("\n"); err != nil {
		_ = file.Close() // what counts is that it cannot be written
		return nil, err
	}
	return &Note{file}, nil
}

// Removed reports whether the file is gone, and with it, as nobody else has business with it, the container: its engine was
// killed as it started the container, has forgotten that, and could only remove the files.
func (n *Note) Removed() bool {
	info, err := n.file.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}

// End writes how the machine ended, as JSON, over what is in the file. There is never a moment without anything in it.
func (n *Note) End(exit *machine.Exit) error {
	text, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	_, err = n.file.WriteAt(text, 0)
	return err
}
