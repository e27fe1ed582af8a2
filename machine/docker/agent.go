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
)

// What the agent finds in an image that was made for it.
const (
	agentDir    = "/dayfly"
	agentFile   = "/dayfly/agent"   // the program
	workDir     = "/dayfly/work"    // the working directory, in images that name none
	scratchDir  = "/dayfly/scratch" // what the agent keeps until the server has it
	exitFile    = "/dayfly/exit"    // how the machine ended, when a status does not say it
	fitRevision = "1"               // of what is put into an image beside the program; changes with it
)

// agentProgram is the agent's program, of which is read what has to be known once.
type agentProgram struct {
	Program
	once sync.Once
	err  error
	arch string // as images call it: amd64
	hash string
	size int64
}

// architecturesOf are the names that images have for what executables call themselves.
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

// read reads the program, once.
func (a *agentProgram) read() error {
	a.once.Do(func() { a.err = a.examine() })
	return a.err
}

func (a *agentProgram) examine() error {
	cannot := func(why string) error {
		return fault.Say(fault.Unsupported, "the agent that containers run, %s, %s; put dayfly-agent for Linux beside dayfly, "+
			"or name it with providers.docker.agent", a.File, why)
	}
	file, err := os.Open(a.File)
	if err != nil {
		return cannot("cannot be read: " + plain(err))
	}
	defer file.Close()
	program, err := elf.NewFile(file)
	if err != nil {
		return cannot("is no program for Linux")
	}
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return cannot("needs libraries of this computer, which images do not have (it was built with cgo)")
		}
	}
	sum := sha256.New()
	if a.size, err = io.Copy(sum, io.NewSectionReader(file, 0, 1<<62)); err != nil {
		return cannot("cannot be read: " + plain(err))
	}
	sum.Write([]byte(fitRevision))
	a.arch, a.hash = architectureOf(program.Machine), hex.EncodeToString(sum.Sum(nil))
	return nil
}

// archive writes what is put into an image.
func (a *agentProgram) archive(w io.Writer) error {
	file, err := os.Open(a.File)
	if err != nil {
		return err
	}
	defer file.Close()
	t := tar.NewWriter(w)
	for _, header := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: agentDir, Mode: 0o755},
		// Whoever the image's user is, it works here.
		{Typeflag: tar.TypeDir, Name: workDir, Mode: 0o1777},
		{Typeflag: tar.TypeDir, Name: scratchDir, Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: exitFile, Mode: 0o666},
		{Typeflag: tar.TypeReg, Name: agentFile, Mode: 0o755, Size: a.size},
	} {
		header.ModTime = time.Unix(0, 0)
		if err := t.WriteHeader(header); err != nil {
			return err
		}
	}
	if _, err := io.CopyN(t, file, a.size); err != nil {
		return err
	}
	return t.Close()
}

// argv is a command line of the agent in a container.
func (a *agentProgram) argv(args ...string) []string {
	return append(append([]string{agentFile}, a.Args...), args...)
}
