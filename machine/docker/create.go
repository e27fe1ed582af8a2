package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The labels of containers and images. Those of a machine are in its create request.
const (
	labelOwner   = "run.dayfly.owner"
	labelName    = "run.dayfly.name"
	labelMachine = "run.dayfly.machine" // a record, in JSON
	labelFitted  = "run.dayfly.fitted"  // of an image with an agent: the image it was made of
	labelBase    = "run.dayfly.base"    // of an image that was made for programs
	labelFitting = "run.dayfly.fitting" // of the container that such an image is made by
)

// record is what a container says of its machine.
type record struct {
	Labels   map[string]string `json:"labels,omitempty"`
	Lifetime time.Duration     `json:"lifetime"`
	Image    string            `json:"image"`
}

// minMemoryMB is the least memory that Docker gives a container, in MiB.
const minMemoryMB = 6

// check reports what cannot be had of this provider.
func (p *Provider) check(spec *machine.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	size := &spec.Size
	switch {
	case spec.Image == "" && spec.Program == nil:
		return fault.Say(fault.Invalid, "a container needs an image; name one, such as debian:12, with --image")
	case spec.Region != "":
		return fault.Say(fault.Unsupported, "there are no regions here: containers run where the engine does; leave the region %q out", spec.Region)
	case size.GPU != "":
		return fault.Say(fault.Unsupported, "containers get no GPU here, and the size asks for one (%s); choose another size or provider", size.GPU)
	case size.MemoryMB != 0 && size.MemoryMB < minMemoryMB:
		return fault.Say(fault.Invalid, "%d MiB of memory are too little: a container gets at least %d MiB", size.MemoryMB, minMemoryMB)
	case size.MemoryMB > math.MaxInt64>>20:
		return fault.Say(fault.Invalid, "%d MiB of memory are more than there can be", size.MemoryMB)
	case size.CPUs != 0 && size.CPUs < 0.01:
		return fault.Say(fault.Invalid, "%v CPUs are too few: a container gets at least 0.01", size.CPUs)
	case size.CPUs > 1<<16:
		return fault.Say(fault.Invalid, "%v CPUs are more than there can be", size.CPUs)
	}
	for _, file := range spec.Files {
		if strings.HasPrefix(file.Path, agentDir+"/") || file.Path == agentDir {
			return fault.Say(fault.Invalid, "the file %s would be in %s, which is the agent's", file.Path, agentDir)
		}
	}
	return nil
}

// Create implements machine.Provider.
func (p *Provider) Create(ctx context.Context, spec *machine.Spec) (*machine.Machine, error) {
	if err := ctx.Err(); err != nil {
		return nil, canceled(ctx)
	}
	if err := p.check(spec); err != nil {
		return nil, err
	}
	e, err := p.connect()
	if err != nil {
		return nil, err
	}
	unlock, err := p.names.lock(ctx, spec.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := p.checkCPUs(ctx, e, spec.Size.CPUs); err != nil {
		return nil, err
	}
	image, err := p.resolve(ctx, e, spec, func(machine.Preparation) {})
	if err != nil {
		return nil, err
	}
	options, err := p.describe(spec, image)
	if err != nil {
		return nil, err
	}
	id, m, err := p.make(ctx, e, spec, image, options)
	if err != nil || m != nil {
		return m, err
	}
	if err := p.start(ctx, e, id, spec); err != nil {
		return nil, err
	}
	found, err := p.inspect(ctx, e, id)
	if err != nil {
		return nil, err
	}
	return p.machineOf(ctx, e, found)
}

// checkCPUs reports that a machine wants more processors than there are. Docker would refuse it, and Podman give it fewer.
func (p *Provider) checkCPUs(ctx context.Context, e *engine, want float64) error {
	if want <= max(1, float64(e.cpus.Load())) {
		return nil
	}
	answer, err := e.Info(ctx, client.InfoOptions{})
	if err != nil {
		return p.failed(ctx, e, "say how many processors there are", err)
	}
	if answer.Info.NCPU <= 0 {
		return fault.Say(fault.Unavailable, "the engine at %s answered something about its processors that makes no sense", e.host)
	}
	e.cpus.Store(int64(answer.Info.NCPU))
	if want > float64(answer.Info.NCPU) {
		return fault.Say(fault.Invalid, "%v CPUs are more than there are: the engine at %s has %d; choose a smaller size", want, e.host, answer.Info.NCPU)
	}
	return nil
}

// make makes the container, or finds the one that was made before. If there is nothing left to do for that one, it is
// returned as a machine.
func (p *Provider) make(ctx context.Context, e *engine, spec *machine.Spec, image *picture, options client.ContainerCreateOptions) (id string, m *machine.Machine, err error) {
	doing := "make the container " + spec.Name
	for range 3 {
		made, err := e.ContainerCreate(ctx, options)
		switch {
		case err == nil && made.ID == "":
			return "", nil, fault.Say(fault.Unavailable, "the engine at %s answered a create with something that makes no sense", e.host)
		case err == nil:
			return made.ID, nil, nil
		case isTaken(err):
			found, missing := p.inspect(ctx, e, spec.Name)
			if fault.Of(missing) == fault.NotFound {
				if err := p.clearName(ctx, e, spec.Name, err); err != nil {
					return "", nil, err
				}
				continue // it was being removed
			}
			err := missing
			if err != nil {
				return "", nil, ambiguous(err)
			}
			return p.adopt(ctx, e, spec, found)
		case errdefs.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "network"):
			return "", nil, fault.Say(fault.Invalid, "the engine at %s has no network %s; make it, or correct providers.docker.network", e.host, p.options.Network)
		case errdefs.IsNotFound(err):
			// The image with the agent was not made yet, or somebody removed it.
			if err := p.fit(ctx, e, image); err != nil {
				return "", nil, err
			}
		default:
			return "", nil, p.refused(ctx, e, doing, err)
		}
	}
	return "", nil, fault.Say(fault.Unavailable, "the engine at %s could not %s: its name is taken and is not, or its image comes and goes", e.host, doing)
}

// clearName frees a name that a Podman which was killed has left taken: it had made a container's file system, and not yet
// the container, which therefore nobody can find.
func (p *Provider) clearName(ctx context.Context, e *engine, name string, taken error) error {
	if !strings.Contains(taken.Error(), "creating container storage") {
		return nil
	}
	_, err := e.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !isGone(err) {
		return ambiguous(p.failed(ctx, e, "remove what it has left of the container "+name, err))
	}
	return nil
}

// refused is failed for a step of a create, whose refusals have fewer kinds.
func (p *Provider) refused(ctx context.Context, e *engine, doing string, err error) error {
	text := strings.ToLower(err.Error())
	switch {
	case strings.Contains(text, "storage-opt") || strings.Contains(text, "storage driver"):
		return fault.Say(fault.Unsupported, "the engine at %s cannot limit a container's disk (%s); leave the disk size out", e.host, plain(err))
	case strings.Contains(text, "no space left on device"):
		return fault.Say(fault.Exhausted, "the engine at %s has no space left on its disk", e.host)
	}
	return ambiguous(p.failed(ctx, e, doing, err))
}

// ambiguous makes fault.Unavailable of the kinds that a create does not have: what was not found or was in conflict may be
// otherwise in a moment.
func ambiguous(err error) error {
	if kind := fault.Of(err); kind == fault.NotFound || kind == fault.Conflict {
		sentence, _ := fault.Sentence(err)
		return fault.Say(fault.Unavailable, "%s", sentence)
	}
	return err
}

// adopt takes a container of the machine's name. One that was made and not started, because whoever made it was cut off, is
// returned by its id to be finished.
func (p *Provider) adopt(ctx context.Context, e *engine, spec *machine.Spec, found *container.InspectResponse) (id string, m *machine.Machine, err error) {
	owner, name, _, ours := identity(found)
	if !ours || name != spec.Name || owner != spec.Owner {
		return "", nil, fault.Say(fault.Conflict, "the engine at %s has a container %s already, which is not of this installation of Dayfly; "+
			"it is left alone", e.host, spec.Name)
	}
	if stateOf(found.State.Status) == machine.Creating {
		began, err := p.began(ctx, e, found.ID)
		if err != nil {
			return "", nil, ambiguous(p.failed(ctx, e, "show whether the container "+spec.Name+" has begun", err))
		}
		if !began {
			return found.ID, nil, nil
		}
		// An engine was killed after it had started the container and before it had kept that in mind. What runs in it goes on,
		// and would be started a second time.
	}
	if found.State.Status == container.StateRemoving || found.State.Status == container.StateDead {
		return "", nil, fault.Say(fault.Unavailable, "the container %s of this name is being removed", spec.Name)
	}
	m, err = p.machineOf(ctx, e, found)
	return "", m, err
}

// start puts the machine's files into its container and starts it.
func (p *Provider) start(ctx context.Context, e *engine, id string, spec *machine.Spec) error {
	if len(spec.Files) > 0 {
		err := p.copyIn(ctx, e, id, func(w io.Writer) error { return writeFiles(w, spec.Files) })
		if err != nil {
			return p.refused(ctx, e, "put files into the container "+spec.Name, err)
		}
	}
	_, err := e.ContainerStart(ctx, id, client.ContainerStartOptions{})
	if err == nil || errdefs.IsNotModified(err) {
		return nil
	}
	text := strings.ToLower(err.Error())
	if strings.Contains(text, "already exists") && (strings.Contains(text, "task ") || strings.Contains(text, "container ")) {
		return p.remake(ctx, e, id, spec)
	}
	if !errdefs.IsInvalidArgument(err) && !strings.Contains(text, "unable to find user") && !strings.Contains(text, "unable to find group") &&
		!strings.Contains(text, "no matching entries in passwd") {
		return p.refused(ctx, e, "start the container "+spec.Name, err)
	}
	// It can never start. A refusal means that nothing was made, so the container has to be gone before it is given.
	if _, removed := e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); removed != nil && !isGone(removed) {
		return ambiguous(p.failed(ctx, e, "remove the container "+spec.Name+", which cannot start ("+plain(err)+")", removed))
	}
	return fault.Say(fault.Invalid, "the container %s cannot start: %s", spec.Name, plain(err))
}

// remake removes a container that cannot be started because the engine was killed while it did that, for the next Create to
// make anew. Docker before 23 leaves it like that, and Podman does. Nothing of the machine has begun, or it would have been adopted.
func (p *Provider) remake(ctx context.Context, e *engine, id string, spec *machine.Spec) error {
	if _, err := e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !isGone(err) {
		return ambiguous(p.failed(ctx, e, "remove the container "+spec.Name+", which it was killed over", err))
	}
	return fault.Say(fault.Unavailable, "the engine at %s was killed while it started the container %s, which had not begun and is removed; it is made anew", e.host, spec.Name)
}

func writeFiles(w io.Writer, files []machine.File) error {
	t := tar.NewWriter(w)
	for _, file := range files {
		mode := int64(file.Mode)
		if mode == 0 {
			mode = 0o644
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(file.Path, "/"), Mode: mode, Size: int64(len(file.Data)), ModTime: time.Unix(0, 0)}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		if _, err := t.Write(file.Data); err != nil {
			return err
		}
	}
	return t.Close()
}

// describe says what container the machine is.
func (p *Provider) describe(spec *machine.Spec, image *picture) (client.ContainerCreateOptions, error) {
	about, err := json.Marshal(record{Labels: spec.Labels, Lifetime: spec.Lifetime, Image: image.named})
	if err != nil {
		return client.ContainerCreateOptions{}, fmt.Errorf("docker: %w: %w", fault.Internal, err)
	}
	argv, dir, err := p.command(spec, image)
	if err != nil {
		return client.ContainerCreateOptions{}, err
	}
	env := environment(spec, image)
	init := false
	return client.ContainerCreateOptions{
		Name: spec.Name,
		Config: &container.Config{
			Image: image.fitted, User: spec.User, Env: env, WorkingDir: dir,
			Entrypoint: argv[:1], Cmd: argv[1:],
			Labels: map[string]string{labelOwner: spec.Owner, labelName: spec.Name, labelMachine: string(about)},
			// Nobody asks, and the answers cost. Podman sets a timer all the same, which is to ring when the machine is long gone.
			Healthcheck: &container.HealthConfig{Test: []string{"NONE"}, Interval: 1000 * time.Hour},
		},
		HostConfig: &container.HostConfig{
			Resources:     p.resources(&spec.Size),
			NetworkMode:   container.NetworkMode(p.options.Network),
			CapDrop:       []string{"ALL"},
			CapAdd:        slices.Clone(p.options.Capabilities),
			SecurityOpt:   []string{"no-new-privileges"},
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
			StorageOpt:    storage(&spec.Size),
			Init:          &init, // the agent is one
			LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "16m", "max-file": "2"}},
			DNS:           []netip.Addr{},
		},
	}, nil
}

// command is what the container's first process is, and where. What the spec runs is below the agent's init mode.
func (p *Provider) command(spec *machine.Spec, image *picture) (argv []string, dir string, err error) {
	dir = image.workDir
	if dir == "" || path.Clean(dir) == "/" {
		dir = workDir
	}
	init := p.argv("init", "--lifetime", spec.Lifetime.String(), "--exit", exitFile, "--order", orderFile, "--")
	if spec.Agent != nil {
		return append(init, p.argv("run", "--work", dir, "--scratch", scratchDir)...), dir, nil
	}
	if image.workDir == "" {
		dir = "/" // as it would be without Dayfly
	}
	if spec.Program != nil {
		return slices.Concat(init, []string{image.load.programFile()}, spec.Program.Args), dir, nil
	}
	entrypoint, command := image.entrypoint, image.command
	if len(spec.Entrypoint) > 0 {
		entrypoint, command = spec.Entrypoint, nil
	}
	if len(spec.Command) > 0 {
		command = spec.Command
	}
	if len(entrypoint)+len(command) == 0 {
		return nil, "", fault.Say(fault.Invalid, "the image %s does not say what to run; give a command", spec.Image)
	}
	return slices.Concat(init, entrypoint, command), dir, nil
}

// environment is what the container's processes are told, beyond what the image says.
func environment(spec *machine.Spec, image *picture) []string {
	var env []string
	for _, key := range slices.Sorted(maps.Keys(spec.Env)) {
		env = append(env, key+"="+spec.Env[key])
	}
	if spec.Agent == nil {
		return env
	}
	env = append(env, "DAYFLY_AGENT_URL="+spec.Agent.URL, "DAYFLY_AGENT_ATTEMPT="+spec.Agent.Attempt,
		"DAYFLY_AGENT_TOKEN="+spec.Agent.Token, "DAYFLY_AGENT_INSTANCE="+spec.Name)
	entrypoint := image.entrypoint
	if len(spec.Entrypoint) > 0 {
		entrypoint = spec.Entrypoint
	}
	if len(entrypoint) > 0 {
		text, err := json.Marshal(entrypoint)
		if err == nil { // texts always can be encoded
			env = append(env, "DAYFLY_AGENT_ENTRYPOINT="+string(text))
		}
	}
	return env
}

// resources are the limits that a size means, with this provider's own where it says nothing.
func (p *Provider) resources(size *machine.Size) container.Resources {
	memory, processes := size.MemoryMB, size.Processes
	if memory == 0 {
		memory = p.options.MemoryMB
	}
	if processes == 0 {
		processes = p.options.Processes
	}
	bytes, pids := int64(memory)<<20, int64(processes)
	return container.Resources{
		NanoCPUs: int64(math.Round(size.CPUs * 1e9)),
		Memory:   bytes, MemorySwap: bytes, // memory and swap together: no swap
		PidsLimit: &pids,
	}
}

func storage(size *machine.Size) map[string]string {
	if size.DiskMB == 0 {
		return nil
	}
	return map[string]string{"size": fmt.Sprintf("%dM", size.DiskMB)}
}
