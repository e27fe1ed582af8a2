package boot

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The labels of a runner's machine.
const (
	LabelPool   = "pool"
	LabelParent = "parent" // the process that asked for it, see identity
)

// What a machine at Fly finds in its environment of itself.
const (
	flyImage  = "FLY_IMAGE_REF"
	flyRegion = "FLY_REGION"
)

// spec completes the template for one machine.
func (b *Booter) spec(ctx context.Context, name, invitation string) (*machine.Spec, error) {
	spec := b.options.Spec
	spec.Name, spec.Owner = name, b.owner
	spec.Labels = maps.Clone(spec.Labels)
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	spec.Labels[LabelPool], spec.Labels[LabelParent] = shorten(b.pool, 256), b.parent
	spec.Env = maps.Clone(spec.Env)
	if spec.Env == nil {
		spec.Env = map[string]string{}
	}
	spec.Env[ParentVariable] = invitation
	if len(spec.Command) > 0 || len(spec.Entrypoint) > 0 {
		return &spec, nil // the image has the program
	}
	program := &machine.Program{File: cmp.Or(b.options.Program, machine.ThisProgram)}
	err := b.carries(ctx, program)
	if err == nil {
		spec.Program = program
		return &spec, nil
	}
	if _, carrier := b.provider.(machine.Carrier); carrier || !errors.Is(err, fault.Unsupported) {
		return nil, err
	}
	return b.fromImage(&spec)
}

// carries reports whether the provider brings the program along. It asks until the answer is yes.
func (b *Booter) carries(ctx context.Context, program *machine.Program) error {
	b.mu.Lock()
	checked := b.checked
	b.mu.Unlock()
	if checked {
		return nil
	}
	if err := machine.CheckProgram(ctx, b.provider, program); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.checked = true
	return nil
}

// fromImage makes the machine run this program from its image, where the provider cannot bring it along. The image is the
// one that this process itself runs in, if it knows that, and then the program is in the same place.
func (b *Booter) fromImage(spec *machine.Spec) (*machine.Spec, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, fault.Say(fault.Unavailable, "It cannot be found out which program runs here: %v.", err)
	}
	program := cmp.Or(b.options.Program, strings.TrimSuffix(own, " (deleted)"))
	if spec.Image == "" {
		if spec.Image = b.options.Environment(flyImage); spec.Image == "" {
			return nil, fault.Say(fault.Invalid, "The machines of pool %s run what an image holds, and none is named; "+
				"name an image with this program in the Spec of the pool, at %s or with an Entrypoint that starts it.", b.pool, program)
		}
		spec.Region = cmp.Or(spec.Region, b.options.Environment(flyRegion))
	}
	// The program is its own first process, which collects what others leave behind and ends the machine at its end date.
	spec.Entrypoint = []string{program, machine.Helper, "init", "--lifetime", spec.Lifetime.String(), "--", program}
	return spec, nil
}
