package local

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// CheckProgram reports whether the program is a file that can be executed on this computer, as [machine.Carrier] says. Machines
// here see the same files, so it is run from where it is, with all the libraries there are.
func (p *Provider) CheckProgram(ctx context.Context, program *machine.Program) error {
	if err := ctx.Err(); err != nil {
		return canceled(context.Cause(ctx))
	}
	info, err := os.Stat(program.File)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("it is no file")
	}
	if err == nil {
		err = unix.Access(program.File, unix.X_OK)
	}
	if err == nil {
		err = checkFormat(program.File)
	}
	if err != nil {
		return fmt.Errorf("local: %w", fault.Say(fault.Unsupported, "The program %s cannot be executed on this computer: %v.", program.File, err))
	}
	return nil
}

// checkFormat reports what the kernel would make of the file. Scripts are left to their interpreters.
func checkFormat(file string) error {
	opened, err := os.Open(file)
	if errors.Is(err, fs.ErrPermission) {
		return nil // the kernel may execute what nobody may read
	}
	if err != nil {
		return err
	}
	defer opened.Close()
	var begin [2]byte
	if _, err := io.ReadFull(opened, begin[:]); err == nil && string(begin[:]) == "#!" {
		return nil
	}
	const build = "build it with GOOS=linux GOARCH=" + runtime.GOARCH
	program, err := elf.NewFile(opened)
	if err != nil {
		return errors.New("it is no program for Linux; " + build)
	}
	if !runs(program.Machine) && !emulates() {
		return fmt.Errorf("it is for other processors, %s; %s", program.Machine, build)
	}
	for _, segment := range program.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(io.LimitReader(segment.Open(), 4096))
		if err != nil {
			return err
		}
		if name := strings.TrimRight(string(loader), "\x00"); !exists(name) {
			return fmt.Errorf("it needs %s, which is not here; build it with CGO_ENABLED=0", name)
		}
	}
	return nil
}

// runs reports whether this computer's processors execute programs of a kind.
func runs(kind elf.Machine) bool {
	kinds := map[string][]elf.Machine{
		"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}, "386": {elf.EM_386}, "arm": {elf.EM_ARM},
		"riscv64": {elf.EM_RISCV}, "ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390},
	}[runtime.GOARCH]
	return len(kinds) == 0 || slices.Contains(kinds, kind)
}

// emulates reports whether the kernel has somebody else execute programs for other processors.
func emulates() bool {
	handlers, err := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-*")
	return err == nil && len(handlers) > 0
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// ownProgram returns the spec with the file in place of [machine.ThisProgram], which would be another program for the
// supervisor. When the file holds something else by now, the kernel knows the program by this process, as long as that lives.
func ownProgram(spec *machine.Spec) *machine.Spec {
	if spec.Program.File != machine.ThisProgram {
		return spec
	}
	own, program := *spec, *spec.Program
	program.File = fmt.Sprintf("/proc/%d/exe", os.Getpid())
	if file, err := os.Executable(); err == nil {
		here, err1 := os.Stat(file)
		runs, err2 := os.Stat(machine.ThisProgram)
		if err1 == nil && err2 == nil && os.SameFile(here, runs) {
			program.File = file
		}
	}
	own.Program = &program
	return &own
}
