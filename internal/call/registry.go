package call

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/call/codec"
)

// Function is something that a runner can run.
type Function struct {
	Name  string
	Place string // where it is declared: "file.go:12"
	// Retains says that the argument's bytes are kept by Run, so that it gets them for itself.
	Retains bool
	// Run decodes the argument and runs the function. The error is the function's own, or made by Refuse or Unsent.
	Run func(ctx context.Context, x *Execution) (codec.Value, error)

	pace pace
}

// Registry is the functions of a program. It is safe for concurrent use.
type Registry struct {
	mu        sync.RWMutex
	functions map[string]*Function
}

// names of functions: they are in logs, errors and dashboards.
var functionName = regexp.MustCompile(`^[a-zA-Z0-9_./-]{1,100}$`)

// Add makes a function known. fault.Invalid: its name is not one. fault.Conflict: the name is taken.
func (r *Registry) Add(f *Function) error {
	if !functionName.MatchString(f.Name) {
		return fault.Say(fault.Invalid, "%q is no name of a function (%s): 1 to 100 letters, digits, '_', '.', '/' and '-' are", f.Name, f.Place)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.functions[f.Name]; other != nil {
		return fault.Say(fault.Conflict, "two functions have the name %q: one at %s, one at %s", f.Name, other.Place, f.Place)
	}
	if r.functions == nil {
		r.functions = map[string]*Function{}
	}
	r.functions[f.Name] = f
	return nil
}

// find returns a function, or an error of kind fault.NotFound that names those which there are.
func (r *Registry) find(name []byte) (*Function, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if f := r.functions[string(name)]; f != nil {
		return f, nil
	}
	known := slices.Sorted(maps.Keys(r.functions))
	more := ""
	if len(known) > 10 {
		known, more = known[:10], " and others"
	}
	return nil, fault.Say(fault.NotFound, "the runner knows no function %q. It is the same build as its caller, so the function was declared only "+
		"in the caller: declare it in a package-level variable and not where it is used. The runner knows %s%s", name, strings.Join(known, ", "), more)
}
