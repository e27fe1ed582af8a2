package fly

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// createRequest is the body of a create.
type createRequest struct {
	Name   string  `json:"name"`
	Region string  `json:"region,omitempty"`
	Config *config `json:"config"`
}

// config is what is written of a machine's config.
type config struct {
	Image       string            `json:"image"`
	Guest       *guest            `json:"guest"`
	Env         map[string]string `json:"env,omitempty"`
	Init        *initial          `json:"init,omitempty"`
	Processes   []*process        `json:"processes,omitempty"`
	Files       []*file           `json:"files,omitempty"`
	Metadata    map[string]string `json:"metadata"`
	AutoDestroy bool              `json:"auto_destroy"`
	Restart     restart           `json:"restart"`
	StopConfig  stopConfig        `json:"stop_config"`
}

// initial is what runs first. Exec overrides what the image says and the other two.
type initial struct {
	Exec       []string `json:"exec,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
}

// process is what runs first as a certain user: init has none.
type process struct {
	initial
	User string `json:"user"`
}

type file struct {
	Path string `json:"guest_path"`
	Raw  []byte `json:"raw_value"` // base64 in JSON
	Mode uint32 `json:"mode"`
}

type restart struct {
	Policy string `json:"policy"`
}

type stopConfig struct {
	Signal  string `json:"signal"`
	Timeout string `json:"timeout"`
}

// grace is how long a machine has between SIGTERM and SIGKILL when it is stopped.
const grace = "10s"

// The agent's environment, see internal/agent/agentmain: it takes these and does not pass them on.
const (
	agentURL      = "DAYFLY_AGENT_URL"
	agentAttempt  = "DAYFLY_AGENT_ATTEMPT"
	agentToken    = "DAYFLY_AGENT_TOKEN"
	agentInstance = "DAYFLY_AGENT_INSTANCE"
)

// Create asks for a machine, as [machine.Provider] says. Its Region may be a list: when a region has no room the next is
// asked, and one in which only a host was full is asked twice. fault.Exhausted says what each of them said.
func (p *Provider) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := spec.Validate(); err != nil {
		return nil, wrap("create", err)
	}
	what := "machine " + spec.Name
	request, err := p.requestOf(spec)
	if err != nil {
		return nil, wrap(what, err)
	}
	var full []string
	for _, region := range p.regionsOf(spec) {
		request.Region = region
		m, err := p.createIn(ctx, request, spec)
		if err == nil {
			return m, nil
		}
		if _, ok := errors.AsType[*noRoom](err); !ok {
			kind := fault.Of(err)
			if len(full) == 0 || (kind != fault.Invalid && kind != fault.Exhausted) {
				return nil, wrap(what, err)
			}
			// The region before this one would have done, and may have room again.
		}
		full = append(full, regionName(region)+": "+err.Error())
	}
	return nil, wrap(what, fault.Say(fault.Exhausted, "%s", strings.Join(full, "; ")))
}

// regionsOf returns the regions to try, in order. "" leaves it to Fly. Aliases, such as "eu", are Fly's to understand.
func (p *Provider) regionsOf(spec *machine.Spec) []string {
	list := spec.Region
	if list == "" {
		list = p.options.Region
	}
	var regions []string
	for region := range strings.SplitSeq(list, ",") {
		if region = strings.TrimSpace(region); region != "" && !slices.Contains(regions, region) {
			regions = append(regions, region)
		}
	}
	if len(regions) == 0 {
		return []string{""}
	}
	return regions
}

func regionName(region string) string {
	if region == "" {
		return "any region"
	}
	return plain(region, 64)
}

// sizeOf returns the size that a Spec's size asks for.
func (p *Provider) sizeOf(size machine.Size) machine.Size {
	if size.IsZero() {
		return p.options.Size
	}
	return size
}

// requestOf returns the create request of a spec, the same for the same spec whenever it is asked for.
func (p *Provider) requestOf(spec *machine.Spec) (*createRequest, error) {
	if spec.Program != nil {
		return nil, fault.Say(fault.Unsupported, "a machine at Fly runs what its image holds, and no program of this computer; "+
			"build an image with the program in it, and name that")
	}
	image := spec.Image
	if image == "" {
		image = p.options.Image
	}
	if image == "" {
		return nil, fault.Say(fault.Invalid, "a machine at Fly needs an image, and neither the job nor providers.fly.image names one")
	}
	guest, err := guestOf(p.sizeOf(spec.Size))
	if err != nil {
		return nil, err
	}
	c := &config{
		Image: image, Guest: guest, Env: maps.Clone(spec.Env), Metadata: metadataOf(spec),
		Restart: restart{Policy: "no"}, StopConfig: stopConfig{Signal: "SIGTERM", Timeout: grace},
	}
	if c.Env == nil {
		c.Env = make(map[string]string)
	}
	for _, f := range spec.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		c.Files = append(c.Files, &file{Path: f.Path, Raw: slices.Concat([]byte{}, f.Data), Mode: mode})
	}
	first, err := p.firstOf(spec, c.Env)
	if err != nil {
		return nil, err
	}
	if spec.User != "" {
		c.Processes = []*process{{initial: *first, User: spec.User}}
	} else if len(first.Exec)+len(first.Cmd) > 0 {
		c.Init = first
	}
	return &createRequest{Name: spec.Name, Config: c}, nil
}

// firstOf returns what runs first in the machine, and completes the environment for the agent.
func (p *Provider) firstOf(spec *machine.Spec, env map[string]string) (*initial, error) {
	switch {
	case spec.Agent != nil && len(spec.Entrypoint) > 0:
		return nil, fault.Say(fault.Unsupported, "what runs first in this machine is Dayfly's agent, so it has no other entrypoint; "+
			"name the program in the job's command, or ask for a bare machine")
	case spec.Agent != nil:
		env[agentURL], env[agentAttempt], env[agentToken] = spec.Agent.URL, spec.Agent.Attempt, spec.Agent.Token
		env[agentInstance] = spec.Name
		return &initial{Exec: []string{p.options.Agent, "run", "--lifetime", spec.Lifetime.String()}}, nil
	case len(spec.Entrypoint) > 0:
		// With an entrypoint of its own the machine has no default command of the image's either, so nothing is left to it.
		return &initial{Exec: slices.Concat(spec.Entrypoint, spec.Command)}, nil
	default:
		return &initial{Cmd: spec.Command}, nil
	}
}

func metadataOf(spec *machine.Spec) map[string]string {
	meta := map[string]string{metaOwner: spec.Owner, metaName: spec.Name, metaLifetime: spec.Lifetime.String()}
	for key, value := range spec.Labels {
		if value == "" {
			meta[metaEmpty+key] = "true"
		} else {
			meta[metaLabel+key] = value
		}
	}
	return meta
}

// createIn asks for the machine in one region. Want of room is a *noRoom.
func (p *Provider) createIn(ctx context.Context, request *createRequest, spec *machine.Spec) (*machine.Machine, error) {
	for again := false; ; again = true {
		o := &call{action: "create", method: http.MethodPost, body: request}
		a, err := p.client.do(ctx, o)
		if err != nil {
			return nil, err
		}
		if a.ok() {
			return p.made(o, a, spec)
		}
		err = p.refusedCreate(a, spec)
		if err == nil {
			return p.adopt(ctx, a, spec)
		}
		if full, ok := errors.AsType[*noRoom](err); !ok || full.scope != roomHost || again {
			return nil, err
		}
	}
}

// made reads the answer of a create that succeeded. One that cannot be read leaves open what was made.
func (p *Provider) made(o *call, a *answer, spec *machine.Spec) (*machine.Machine, error) {
	m, err := p.client.parse(o, a)
	if err != nil {
		return nil, err
	}
	if m.Name != spec.Name {
		return nil, fault.Say(fault.Unavailable, "Fly was asked for the machine %s and answered with another%s", spec.Name, inRequest(a.id))
	}
	p.remember(m.ID)
	// What was asked for is what it has, also where the answer leaves it out.
	return m.view(metadataOf(spec)), nil
}

// refusedCreate returns why a create was refused, or nil when its name is taken and the machine that has it has to be
// looked at.
func (p *Provider) refusedCreate(a *answer, spec *machine.Spec) error {
	c := p.client
	o := c.complaint(a)
	if scope := o.capacity(a.status); scope != roomEnough {
		return &noRoom{scope, fault.Say(fault.Exhausted, "Fly has no room: %s%s", o.text, inRequest(a.id))}
	}
	what := "create machine " + spec.Name
	switch _, taken := o.nameTaken(); {
	case (a.status == http.StatusConflict || a.status == http.StatusUnprocessableEntity) && taken:
		return nil
	case a.status == http.StatusConflict && o.has("concurrent update", "lease"):
		return fault.Say(fault.Unavailable, "Fly did not say whether it could %s: %s%s", what, o.text, inRequest(a.id))
	case a.status == http.StatusConflict:
		// Nobody knows this one. Whether the machine exists is a question that can be answered.
		return nil
	case a.status == http.StatusUnprocessableEntity && o.has("limit", "quota", "maximum number"):
		return fault.Say(fault.Exhausted, "Fly has no more machines for this app or organization: %s%s", o.text, inRequest(a.id))
	case a.status == http.StatusNotFound:
		// Whatever the words: a create can find no app only, if it finds anything.
		if o.json {
			return fault.Say(fault.Denied, "Fly knows no app %s that this token may see, so it cannot %s: %s%s; create the app, or correct its name",
				c.app, what, o.text, inRequest(a.id))
		}
	case a.status == http.StatusPreconditionFailed:
		return fault.Say(fault.Invalid, "Fly refuses to %s: %s%s", what, o.text, inRequest(a.id))
	}
	return c.refusal(what, a)
}

// adopt returns the machine that has the spec's name already, if it is the owner's.
func (p *Provider) adopt(ctx context.Context, a *answer, spec *machine.Spec) (*machine.Machine, error) {
	o := p.client.complaint(a)
	id, taken := o.nameTaken()
	if id != "" {
		return p.adoptByID(ctx, id, spec)
	}
	ours := url.Values{"metadata." + metaOwner: {spec.Owner}, "metadata." + metaName: {spec.Name}}
	for _, query := range []url.Values{ours, {}} {
		list, err := p.list(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			if m.Name == spec.Name && !m.gone() {
				meta, _ := m.metadata()
				return p.claim(m, meta, spec)
			}
		}
	}
	if !taken {
		return nil, fault.Say(fault.Unavailable, "Fly did not say whether it could create machine %s: it answered %d: %s%s",
			spec.Name, a.status, o.text, inRequest(a.id))
	}
	return nil, fault.Say(fault.Unavailable, "Fly says that the name %s is taken and lists no machine that has it; ask again%s",
		spec.Name, inRequest(a.id))
}

// adoptByID is adopt for a machine that Fly names. Whoever made it may have done so a moment ago, so that Fly does not show
// it yet.
func (p *Provider) adoptByID(ctx context.Context, id string, spec *machine.Spec) (*machine.Machine, error) {
	for delay := 50 * time.Millisecond; ; delay *= 2 {
		m, meta, err := p.find(ctx, id)
		switch {
		case err == nil:
			return p.claim(m, meta, spec)
		case !errors.Is(err, fault.NotFound):
			return nil, err
		case delay > time.Second:
			return nil, fault.Say(fault.Unavailable, "the name %s is that of a machine which Fly does not show: it has just gone, or has just come; ask again",
				spec.Name)
		}
		if err := pause(ctx, delay); err != nil {
			return nil, err
		}
	}
}

// claim returns the machine of a name if it is the owner's, and fault.Conflict if it is anybody else's.
func (p *Provider) claim(m *flyMachine, meta map[string]string, spec *machine.Spec) (*machine.Machine, error) {
	if m.gone() {
		return nil, fault.Say(fault.Unavailable, "the name %s is that of a machine which has just gone; ask again", spec.Name)
	}
	if meta[metaOwner] != spec.Owner || meta[metaName] != spec.Name {
		return nil, fault.Say(fault.Conflict, "the app %s has a machine %s already, %s, which is not this installation's; it is left alone",
			p.client.app, spec.Name, m.ID)
	}
	return m.view(meta), nil
}
