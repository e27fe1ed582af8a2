package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

type imageSummary = image.Summary

// validID is the form of the names that machines have here.
var validID = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func notFound(id string) error {
	return fmt.Errorf("docker: machine %q: %w", id, fault.NotFound)
}

// Get implements machine.Provider.
func (p *Provider) Get(ctx context.Context, id string) (*machine.Machine, error) {
	e, err := p.connect()
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, e, id)
	if err != nil {
		return nil, err
	}
	return p.machineOf(ctx, e, found)
}

// find returns the container of a machine. One of that name that is none is not found.
func (p *Provider) find(ctx context.Context, e *engine, id string) (*container.InspectResponse, error) {
	if ctx.Err() != nil {
		return nil, canceled(ctx)
	}
	if !validID.MatchString(id) {
		return nil, notFound(id)
	}
	found, err := p.inspect(ctx, e, id)
	if err != nil {
		return nil, err
	}
	if _, name, _, ours := identity(found); !ours || name != id {
		return nil, notFound(id)
	}
	return found, nil
}

// inspect returns a container by its name or id, whosever it is. fault.NotFound if there is none.
func (p *Provider) inspect(ctx context.Context, e *engine, id string) (*container.InspectResponse, error) {
	answer, err := e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	for tries := 0; err != nil && tries < 5 && strings.Contains(err.Error(), " /proc/"); tries++ {
		// It ended while Podman was looking at its processes, and has when it is asked again.
		answer, err = e.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	}
	switch {
	case isGone(err) && ctx.Err() == nil:
		return nil, notFound(id)
	case err != nil:
		return nil, p.failed(ctx, e, "say how the container "+id+" is", err)
	case answer.Container.ID == "" || answer.Container.State == nil || answer.Container.Config == nil:
		return nil, fault.Say(fault.Unavailable, "the engine at %s answered something about the container %s that makes no sense", e.host, id)
	}
	return &answer.Container, nil
}

// identity is who a container says that it is; ours is false for one that is no machine of Dayfly's.
func identity(c *container.InspectResponse) (owner, name string, about record, ours bool) {
	labels := c.Config.Labels
	owner, name = labels[labelOwner], labels[labelName]
	// The labels of an image are its containers' too, and an image is whoever's that made it. The name is not.
	if owner == "" || name == "" || strings.TrimPrefix(c.Name, "/") != name {
		return owner, name, about, false
	}
	return owner, name, about, json.Unmarshal([]byte(labels[labelMachine]), &about) == nil
}

// machineOf is the machine of a container.
func (p *Provider) machineOf(ctx context.Context, e *engine, c *container.InspectResponse) (*machine.Machine, error) {
	owner, name, about, ours := identity(c)
	if !ours {
		return nil, notFound(strings.TrimPrefix(c.Name, "/"))
	}
	created, err := time.Parse(time.RFC3339Nano, c.Created)
	if err != nil {
		return nil, fault.Say(fault.Unavailable, "the engine at %s says that the container %s was created at %q", e.host, name, c.Created)
	}
	m := &machine.Machine{
		ID: name, Name: name, Owner: owner, Labels: about.Labels, State: stateOf(c.State.Status),
		Created: created, Expires: created.Add(about.Lifetime), Image: about.Image,
		Location: fmt.Sprintf("container %.12s at %s", c.ID, e.host),
	}
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	if m.State == machine.Exited {
		m.Exit = p.exitOf(ctx, e, c)
	}
	return m, nil
}

// stateOf is a container's state as a machine's.
func stateOf(status container.ContainerState) machine.State {
	switch status {
	case container.StateCreated, "configured", "initialized", "": // the middle ones are Podman's
		return machine.Creating
	case container.StateExited, container.StateDead, container.StateRemoving, "stopped":
		return machine.Exited
	}
	return machine.Running
}

// telling is the least exit status that says that the init mode may have more to tell. Below it are only the machine's own.
const telling = 125

// exitOf says how a container ended. What cannot be found out beyond the status is left out.
func (p *Provider) exitOf(ctx context.Context, e *engine, c *container.InspectResponse) *machine.Exit {
	exit := &machine.Exit{Code: c.State.ExitCode, OOMKilled: c.State.OOMKilled}
	if exit.Code >= telling {
		if told, err := p.told(ctx, e, c.ID); err != nil {
			p.log.Debug("how a container ended can be told by its status alone", "container", c.ID, "error", err)
		} else if told != nil {
			told.OOMKilled = told.OOMKilled || exit.OOMKilled
			exit = told
		}
	}
	if exit.Code == 137 && exit.Signal == "" { // its first process itself was killed, which leaves nobody to tell
		exit.Code, exit.Signal = -1, "SIGKILL"
	}
	if exit.Code > 255 || exit.Code < -1 {
		exit.Code = 255
	}
	if exit.OOMKilled && exit.OK() {
		exit.OOMKilled = false
	}
	if exit.OOMKilled && exit.Message == "" && exit.Code != 0 {
		exit.Message = "The kernel killed a process because the container needed more memory than it has."
	}
	if exit.Code == 0 { // something may have been killed, and the machine lived on and succeeded
		exit.OOMKilled = false
	}
	if exit.Message == "" && exit.Code != 0 && c.State.Error != "" {
		exit.Message = plain(errors.New(c.State.Error))
	}
	return exit
}

// maxExitFile bounds what is read of how a machine ended, in bytes.
const maxExitFile = 4096

// told reads what the init mode left in the container; nil if it left nothing. While Podman tidies up after a container that
// has just ended, it shows nothing of its files, so that is asked for again for a moment.
func (p *Provider) told(ctx context.Context, e *engine, id string) (exit *machine.Exit, err error) {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		exit, err = p.readExit(ctx, e, id)
		if err == nil || isGone(err) || wait > 500*time.Millisecond {
			return exit, err
		}
		select {
		case <-ctx.Done():
			return nil, canceled(ctx)
		case <-time.After(wait):
		}
	}
}

// readExit reads how the machine ended; nil if it has not, or had nothing to tell.
func (p *Provider) readExit(ctx context.Context, e *engine, id string) (*machine.Exit, error) {
	text, err := p.readNote(ctx, e, id)
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return nil, err
	}
	var exit machine.Exit
	if err := json.Unmarshal(text, &exit); err != nil {
		return nil, err
	}
	return &exit, nil
}

// began reports whether the init mode in a container was ever started, whatever the engine says.
func (p *Provider) began(ctx context.Context, e *engine, id string) (bool, error) {
	text, err := p.readNote(ctx, e, id)
	return len(text) > 0, err
}

// readNote reads what the init mode has left in the container's file: nothing before it begins, an empty line when it has, and
// at its end how it ended, if a status does not say it.
func (p *Provider) readNote(ctx context.Context, e *engine, id string) ([]byte, error) {
	answer, err := e.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: exitFile})
	if err != nil {
		return nil, err
	}
	defer answer.Content.Close()
	archive := tar.NewReader(io.LimitReader(answer.Content, 16<<10))
	header, err := archive.Next()
	if err != nil {
		return nil, err
	}
	if header.Typeflag != tar.TypeReg || header.Size > maxExitFile {
		return nil, fmt.Errorf("%s is not what was written there", exitFile)
	}
	return io.ReadAll(archive)
}

// List implements machine.Provider.
func (p *Provider) List(ctx context.Context, owner string) ([]*machine.Machine, error) {
	if ctx.Err() != nil {
		return nil, canceled(ctx)
	}
	e, err := p.connect()
	if err != nil {
		return nil, err
	}
	list, err := e.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", labelOwner+"="+owner),
	})
	if err != nil {
		return nil, p.failed(ctx, e, "list the containers", err)
	}
	// A list says neither how a container ended nor when exactly it was made.
	machines := make([]*machine.Machine, len(list.Items))
	failures := make([]error, len(list.Items))
	slots := make(chan struct{}, 8)
	var group sync.WaitGroup
	for i, summary := range list.Items {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			machines[i], failures[i] = p.listed(ctx, e, owner, summary.ID)
		})
	}
	group.Wait()
	whole := make([]*machine.Machine, 0, len(machines))
	for i, m := range machines {
		switch {
		case failures[i] != nil:
			return nil, failures[i]
		case m != nil:
			whole = append(whole, m)
		}
	}
	return whole, nil
}

// listed is one machine of a list, or nil when it has gone meanwhile or is no machine.
func (p *Provider) listed(ctx context.Context, e *engine, owner, id string) (*machine.Machine, error) {
	found, err := p.inspect(ctx, e, id)
	if err == nil {
		var m *machine.Machine
		if m, err = p.machineOf(ctx, e, found); err == nil {
			if m.Owner != owner {
				return nil, fault.Say(fault.Unavailable, "the engine at %s listed a container of another owner", e.host)
			}
			return m, nil
		}
	}
	if fault.Of(err) == fault.NotFound {
		return nil, nil
	}
	return nil, err
}

// Destroy implements machine.Provider.
func (p *Provider) Destroy(ctx context.Context, id string) error {
	e, err := p.connect()
	if err != nil {
		return err
	}
	found, err := p.find(ctx, e, id)
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	// By its own id: somebody else's may have the name in a moment.
	_, err = e.ContainerRemove(ctx, found.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	switch {
	case isGone(err) && ctx.Err() == nil:
		return nil
	case err == nil, errdefs.IsConflict(err) && ctx.Err() == nil: // somebody else removes it too
		return p.awaitRemoval(ctx, e, found.ID)
	}
	return p.failed(ctx, e, "remove the container "+id, err)
}

// awaitRemoval makes sure that a container is gone, and waits a moment for a removal that is on its way.
func (p *Provider) awaitRemoval(ctx context.Context, e *engine, id string) error {
	for wait := 20 * time.Millisecond; wait < 3*time.Second; wait *= 2 {
		_, err := p.inspect(ctx, e, id)
		if fault.Of(err) == fault.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return canceled(ctx)
		case <-time.After(wait):
		}
	}
	return fault.Say(fault.Unavailable, "the engine at %s is still removing the container %.12s", e.host, id)
}
