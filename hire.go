package dayfly

import (
	"cmp"
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/internal/pool"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Hired is a provider of machines that a server hires out: they are made by one of the server's providers, count against
// the most that it may have, are shown by dayfly machines, and are destroyed by the server when nobody needs them any more.
// Make it with [Client.Provider]. It is safe for concurrent use.
type Hired struct{ broker }

var (
	_ machine.Provider = (*Hired)(nil)
	_ machine.Watcher  = (*Hired)(nil)
	_ machine.Carrier  = (*Hired)(nil)
	_ machine.Logger   = (*Hired)(nil)
	_ machine.Preparer = (*Hired)(nil)
	_ machine.Gateway  = (*Hired)(nil)
)

// Provider returns the server's provider of that name, such as "docker", as one for a [Pool]. The client's token needs the
// scope hire. It makes no request.
//
// The server keeps the machines for as long as it is asked for a list of them at least once a minute, as a pool does all the
// time, and then for a minute. So whoever has no pool calls Watch.
//
// A Spec's Program is a file of this computer, and a pool's is this program. It is uploaded to the server, once for each build,
// and the server keeps it while a machine needs it, and for a day after it was last used.
func (c *Client) Provider(name string) *Hired {
	return &Hired{c.broker(wire.HirePrefix, name)}
}

// Create implements machine.Provider. The Program of the Spec is uploaded first, if the server does not have it.
func (h *Hired) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	hire := &wire.Hire{Holder: h.holder, Spec: *spec}
	var m machine.Machine
	err := h.programs.with(ctx, spec.Program, func(program *machine.Program) error {
		hire.Spec.Program = program
		return h.call(ctx, request{method: http.MethodPost, path: h.path("machines"), body: hire}, &m)
	})
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// complete fills in what is otherwise for a pool over a server's machines.
func (h *Hired) complete(o *PoolOptions) {
	o.Patience = cmp.Or(o.Patience, min(cmp.Or(o.BootTimeout, pool.DefaultBootTimeout), serverPatience))
}

// serverPatience is how long calls wait for a server that is not there, or while runners do not boot there, however long a boot may take.
const serverPatience = 30 * time.Second

// hirePoll is how often Watch asks: often enough for a lease to last when the server cannot be reached for a while.
const hirePoll = time.Second

// listed hides that a provider is a Watcher.
type listed struct{ machine.Provider }

// Watch implements machine.Watcher. It asks for a list every second.
func (h *Hired) Watch(ctx context.Context, owner string) iter.Seq2[*machine.Machine, error] {
	return machine.Watch(ctx, listed{h}, owner, hirePoll)
}
