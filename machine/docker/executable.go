package docker

import (
	"archive/tar"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

const thisProgram = machine.ThisProgram

// executable is a program of this computer that gets into images.
type executable struct {
	file, name string
	arch       string // as images call it: amd64
	hash       string
	size       int64
}

// executables remembers programs, because to read one takes as long as to start a container of it. It is safe for concurrent
// use.
type executables struct {
	mu    sync.Mutex
	known map[version]*executable // guarded by mu
}

// version is what tells whether a file still holds what it held.
type version struct {
	file     string
	size     int64
	modified time.Time
}

// maxKnown is how many programs are remembered.
const maxKnown = 64

// read returns what has to be known of a program. remedy says what to do about one that cannot be used: it is the end of a
// sentence. Errors are fault.Unsupported.
func (e *executables) read(file, what, remedy string) (*executable, error) {
	cannot := func(why, remedy string) (*executable, error) {
		if file == thisProgram {
			file = nameOf(file)
		}
		return nil, fault.Say(fault.Unsupported, "%s, %s, %s; %s", what, file, why, remedy)
	}
	opened, err := os.Open(file)
	if err != nil {
		return cannot("cannot be read: "+plain(err), remedy)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return cannot("cannot be read: "+plain(err), remedy)
	}
	id := version{file: file, size: info.Size(), modified: info.ModTime()}
	e.mu.Lock()
	defer e.mu.Unlock() // the second who asks gets what the first has read
	if known := e.known[id]; known != nil {
		return known, nil
	}
	program, err := elf.NewFile(opened)
	if err != nil {
		return cannot("is no program for Linux", remedy)
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return cannot("needs libraries of this computer, which images do not have (it was built with cgo)", remedy)
		}
	}
	sum := sha256.New()
	found := &executable{file: file, name: nameOf(file), arch: architectureOf(program.Machine)}
	if found.size, err = io.Copy(sum, io.NewSectionReader(opened, 0, 1<<62)); err != nil {
		return cannot("cannot be read: "+plain(err), remedy)
	}
	found.hash = hex.EncodeToString(sum.Sum(nil))
	if len(e.known) >= maxKnown || e.known == nil {
		e.known = make(map[version]*executable)
	}
	e.known[id] = found
	return found, nil
}

// write writes the program into an archive.
func (e *executable) write(t *tar.Writer, as string) error {
	file, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: as, Mode: 0o755, Size: e.size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.CopyN(t, file, e.size)
	return err
}

// architectureOf returns the name that images have for what executables call themselves.
func architectureOf(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_386:
		return "386"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_PPC64:
		return "ppc64le"
	case elf.EM_S390:
		return "s390x"
	}
	return m.String()
}
