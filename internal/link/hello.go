package link

import (
	"cmp"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
)

// Hello is what a process says of itself to the other. Each text has at most 1024 bytes.
type Hello struct {
	Build   string `json:"build"`             // tells builds of a program apart; a link joins equal ones only
	Program string `json:"program,omitempty"` // the program's name, for people
	Version string `json:"version,omitempty"` // the program's version, for people
	Host    string `json:"host,omitempty"`    // the computer's name, for people
	PID     int    `json:"pid,omitempty"`     // the process, as it is called on its own computer
}

// maxText is the length of a text in a [Hello].
const maxText = 1024

// ThisProcess returns the hello of the process that calls it, with the build of its executable. fault.Internal: the
// executable cannot be read.
func ThisProcess() (Hello, error) {
	build, err := executable()
	if err != nil {
		return Hello{}, err
	}
	host, _ := os.Hostname() // a computer without a name is one that cannot be told apart by it
	return Hello{Build: build, Program: filepath.Base(os.Args[0]), Host: host, PID: os.Getpid()}, nil
}

func (h *Hello) check() error {
	for _, text := range []string{h.Build, h.Program, h.Version, h.Host} {
		if len(text) > maxText {
			return fault.Say(fault.TooLarge, "link: a text in a hello has %d bytes, and at most %d are allowed", len(text), maxText)
		}
	}
	if h.Build == "" {
		return fault.Say(fault.Invalid, "link: a hello names no build, without which parent and runner cannot be compared")
	}
	return nil
}

func (h *Hello) describe() string {
	build := h.Build
	if len(build) > 24 {
		build = build[:24] + "…"
	}
	text := fmt.Sprintf("%s, build %s", cmp.Or(h.Program, "a program"), build)
	if h.Version != "" {
		text = fmt.Sprintf("%s %s, build %s", cmp.Or(h.Program, "a program"), h.Version, build)
	}
	if h.Host != "" {
		text += " on " + h.Host
	}
	return text
}

// executable returns what tells the build of this process's executable apart from others. That is asked once, because
// the file may be replaced while the process runs; on Linux the name that is opened leads to the original even then.
var executable = sync.OnceValues(func() (string, error) {
	path := "/proc/self/exe"
	if _, err := os.Stat(path); err != nil {
		if path, err = os.Executable(); err != nil {
			return "", fmt.Errorf("link: the program's own executable: %w: %w", fault.Internal, err)
		}
	}
	build, err := buildOf(path)
	if err != nil {
		return "", fmt.Errorf("link: the program's own executable: %w: %w", fault.Internal, err)
	}
	return build, nil
})

// buildOf returns the build of an executable: the identifier that Go's linker made from everything that went into it,
// which is read in a fraction of a millisecond, or else the checksum of the file, which takes a hundred times as long.
func buildOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if id := identifier(f); id != "" {
		return "go:" + id, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// identifier returns what the note of Go's linker says, or "".
func identifier(r io.ReaderAt) string {
	file, err := elf.NewFile(r)
	if err != nil {
		return ""
	}
	section := file.Section(".note.go.buildid")
	if section == nil || section.Size > 4096 {
		return ""
	}
	note, err := section.Data()
	// A note: the lengths of its name and of its text, its type, the name "Go\0\0", the text.
	if err != nil || len(note) < 16 || string(note[12:16]) != "Go\x00\x00" {
		return ""
	}
	size := file.ByteOrder.Uint32(note[4:])
	if size == 0 || uint64(size) > uint64(len(note)-16) || size > maxText/2 {
		return ""
	}
	return string(note[16 : 16+size])
}
