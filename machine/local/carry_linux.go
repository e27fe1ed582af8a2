package local

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// CheckProgram reports whether the program is a file that can be executed, as [machine.Carrier] says. Machines here see the
// same files, so it is run from where it is, with all the libraries there are.
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
	if err != nil {
		return fmt.Errorf("local: %w", fault.Say(fault.Unsupported, "The program %s cannot be executed on this computer: %v.", program.File, err))
	}
	return nil
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
