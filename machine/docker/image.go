package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// picture is what has to be known of an image to make containers of it.
type picture struct {
	ref        string // as the spec names it
	id         string
	named      string // the reference with the digest it was resolved to
	entrypoint []string
	command    []string
	workDir    string
	load       load
	fitted     string // the name of the image with the load in it, made of this one
}

// Prepare implements machine.Preparer: it pulls the image if the engine does not have it, and puts the agent into it.
func (p *Provider) Prepare(ctx context.Context, spec *machine.Spec, report func(machine.Preparation)) error {
	if report == nil {
		report = func(machine.Preparation) {}
	}
	e, err := p.connect()
	if err != nil {
		return err
	}
	if err := p.check(spec); err != nil {
		return err
	}
	image, err := p.resolve(ctx, e, spec, report)
	if err != nil {
		return err
	}
	_, err = e.ImageInspect(ctx, image.fitted)
	switch {
	case err == nil:
		return nil
	case !errdefs.IsNotFound(err):
		return p.failed(ctx, e, "look for the image "+image.fitted, err)
	}
	report(machine.Preparation{Text: "putting the agent into " + image.ref})
	return p.fit(ctx, e, image)
}

// resolve finds the image at the engine, or has it pulled, and makes sure that it can be used.
func (p *Provider) resolve(ctx context.Context, e *engine, spec *machine.Spec, report func(machine.Preparation)) (*picture, error) {
	carried, err := p.loadOf(spec.Program)
	if err != nil {
		return nil, err
	}
	ref := spec.Image
	if ref == "" {
		if ref, err = p.base(ctx, e); err != nil {
			return nil, err
		}
	}
	name, err := reference.ParseDockerRef(ref)
	if isImageID(ref) {
		name = nil
	} else if err != nil {
		return nil, fault.Say(fault.Invalid, "%q is not the name of an image, such as debian:12 or ghcr.io/acme/tool:1.4", ref)
	}
	image, err := e.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) && name != nil {
		if err := p.pull(ctx, e, name, report); err != nil {
			return nil, err
		}
		image, err = e.ImageInspect(ctx, ref)
	}
	if errdefs.IsNotFound(err) {
		return nil, fault.Say(fault.Invalid, "the engine at %s has no image %s", e.host, ref)
	}
	if err != nil {
		return nil, p.failed(ctx, e, "look for the image "+ref, err)
	}
	if image.ID == "" {
		return nil, fault.Say(fault.Unavailable, "the engine at %s answered something about the image %s that makes no sense", e.host, ref)
	}
	if image.Os != "" && image.Os != "linux" {
		return nil, fault.Say(fault.Invalid, "the image %s is for %s, and containers here run Linux", ref, image.Os)
	}
	if err := carried.fits(ref, image.Architecture); err != nil {
		return nil, err
	}
	found := &picture{ref: ref, id: image.ID, load: *carried, named: resolved(ref, name, image.RepoDigests, image.ID)}
	if config := image.Config; config != nil {
		found.entrypoint, found.command, found.workDir = config.Entrypoint, config.Cmd, config.WorkingDir
	}
	found.fitted = found.load.fittedName(name, image.ID)
	return found, nil
}

// isImageID reports whether a reference is the id of an image, which nobody can pull.
func isImageID(ref string) bool {
	digits, ok := strings.CutPrefix(ref, "sha256:")
	_, err := hex.DecodeString(digits)
	return ok && err == nil
}

// resolved is the reference with the digest that the engine has for it: the registry's, or that of the image itself where
// it never was in a registry.
func resolved(ref string, name reference.Named, digests []string, id string) string {
	if strings.Contains(ref, "@") || name == nil {
		return ref
	}
	for _, digest := range digests {
		if repository, sum, ok := strings.Cut(digest, "@"); ok {
			if own, err := reference.ParseNormalizedNamed(repository); err == nil && own.Name() == name.Name() {
				return ref + "@" + sum
			}
		}
	}
	return ref + "@" + id
}

// fittedName is what the image with the agent is called that is made of an image: by its name for people, and by what it
// is made of.
func (l *load) fittedName(name reference.Named, id string) string {
	sum := sha256.Sum256([]byte(id + l.hash()))
	repository := "image"
	if name != nil {
		repository = reference.FamiliarName(name)
		repository = strings.NewReplacer(":", "-").Replace(repository) // a registry's port
	}
	if len(repository) > 150 {
		repository = "image"
	}
	return "dayfly-agent/" + repository + ":" + hex.EncodeToString(sum[:8])
}

// pull has the engine fetch an image.
func (p *Provider) pull(ctx context.Context, e *engine, name reference.Named, report func(machine.Preparation)) error {
	ref := reference.FamiliarString(name)
	unlock, err := p.pulls.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.ImageInspect(ctx, name.String()); err == nil {
		return nil // somebody else has pulled it meanwhile
	}
	options := client.ImagePullOptions{}
	known := false // whether there are credentials for the registry
	if p.options.Credentials != nil {
		credentials, err := p.options.Credentials(ctx, reference.Domain(name))
		if err != nil {
			return err
		}
		if credentials != nil {
			known = true
			options.RegistryAuth, err = authconfig.Encode(registry.AuthConfig{
				Username: credentials.User, Password: credentials.Password, IdentityToken: credentials.IdentityToken, ServerAddress: reference.Domain(name),
			})
			if err != nil {
				return fmt.Errorf("docker: %w: encoding the credentials of a registry: %w", fault.Internal, err)
			}
		}
	}
	report(machine.Preparation{Text: "pulling " + ref})
	stream, err := e.ImagePull(ctx, name.String(), options)
	if err == nil {
		err = followPull(ctx, stream, ref, report)
	}
	if err != nil {
		return p.pullFailed(ctx, e, name, known, err)
	}
	return nil
}

// followPull reads how the pull goes until it is over.
func followPull(ctx context.Context, stream client.ImagePullResponse, ref string, report func(machine.Preparation)) error {
	defer stream.Close()
	type layer struct{ done, total int64 }
	layers := map[string]layer{}
	var reported, last machine.Preparation
	var at time.Time
	tell := func() {
		if last != reported {
			reported, at = last, time.Now()
			report(last)
		}
	}
	for message, err := range stream.JSONMessages(ctx) {
		switch {
		case err != nil:
			return err
		case message.Error != nil:
			return message.Error
		case message.ID == "" || message.Progress == nil || len(layers) > 1000:
			continue
		}
		l := layers[message.ID]
		switch message.Status {
		case "Downloading":
			l = layer{message.Progress.Current, message.Progress.Total}
		case "Extracting":
			// Of a download that is quick the engine may say nothing; but the whole layer is here now. Some engines count seconds.
			if message.Progress.Units == "" {
				l.total = max(l.total, message.Progress.Total)
			}
			l.done = l.total
		case "Download complete", "Pull complete":
			l.done = l.total
		}
		layers[message.ID] = l
		last = machine.Preparation{Text: "pulling " + ref}
		for l := range maps.Values(layers) {
			last.Done += l.done
			last.Total += l.total
		}
		if last.Total > 0 && time.Since(at) >= 200*time.Millisecond {
			tell()
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if last.Total > 0 {
		tell() // how it ended, however quickly
	}
	return nil
}

// pullFailed says why an image could not be had.
func (p *Provider) pullFailed(ctx context.Context, e *engine, name reference.Named, known bool, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	ref, host := reference.FamiliarString(name), reference.Domain(name)
	text := strings.ToLower(err.Error())
	mentions := func(words ...string) bool {
		return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
	}
	switch {
	case client.IsErrConnectionFailed(err), isDial(err):
		return unreachable(e.host, err)
	case mentions("toomanyrequests", "too many requests", "rate limit"):
		return fault.Say(fault.Exhausted, "the registry %s lets nobody pull %s now, because there were too many pulls; it is tried again", host, ref)
	case mentions("no matching manifest", "does not match the specified platform"):
		return fault.Say(fault.Invalid, "there is no image %s for the engine's kind of processor: %s", ref, plain(err))
	case mentions("unauthorized", "denied", "authentication required", "no basic auth", "forbidden", "incorrect username"), errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		if known {
			return fault.Say(fault.Invalid, "the registry %s does not let the configured user pull %s, or has no such image; check the name, "+
				"the user's rights and the registry's entry in providers.docker.registries", host, ref)
		}
		return fault.Say(fault.Invalid, "the registry %s does not let everybody pull %s, or has no such image; check the name, "+
			"or name a user for %s in providers.docker.registries", host, ref, host)
	case mentions("not found", "manifest unknown", "name unknown"), errdefs.IsNotFound(err):
		return fault.Say(fault.Invalid, "there is no image %s: neither has the engine at %s one nor the registry %s; check the name and the tag", ref, e.host, host)
	case errdefs.IsInvalidArgument(err):
		return fault.Say(fault.Invalid, "the image %s cannot be pulled: %s", ref, plain(err))
	case mentions("no space left"):
		return fault.Say(fault.Exhausted, "the engine at %s has no space left on its disk for the image %s", e.host, ref)
	}
	return fault.Say(fault.Unavailable, "the engine at %s did not get the image %s from %s: %s", e.host, ref, host, plain(err))
}

// maxFitted is how many images with an agent are kept at the engine.
const maxFitted = 64

// fit makes the image with the agent. Committing is one step: the image is there and whole, or it is not there.
func (p *Provider) fit(ctx context.Context, e *engine, image *picture) error {
	unlock, err := p.fits.lock(ctx, image.fitted)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := e.ImageInspect(ctx, image.fitted); err == nil {
		return nil // somebody else has made it meanwhile
	}
	made, err := e.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name: "dayfly-fit-" + strings.ToLower(rand.Text()),
		Config: &container.Config{
			Image: image.id, Entrypoint: []string{agentFile}, Labels: map[string]string{labelFitting: image.ref}, NetworkDisabled: true,
		},
	})
	if err != nil {
		return p.failed(ctx, e, "make a container of "+image.ref, err)
	}
	defer func() { // it never ran, and has no end of its own
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if _, err := e.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !isGone(err) {
			p.log.Warn("a container that was never started could not be removed", "container", made.ID, "image", image.ref, "error", err)
		}
	}()
	if err := p.copyIn(ctx, e, made.ID, image.load.archive); err != nil {
		return p.failed(ctx, e, "copy the agent into the image "+image.ref, err)
	}
	changes := []string{fmt.Sprintf("LABEL %s=%q", labelFitted, image.ref)}
	for _, label := range []string{labelFitting, labelOwner, labelName, labelMachine} {
		changes = append(changes, fmt.Sprintf("LABEL %s=%q", label, ""))
	}
	_, err = e.ContainerCommit(ctx, made.ID, client.ContainerCommitOptions{
		Reference: image.fitted, Comment: "with Dayfly's agent", NoPause: true,
		// Podman wants a configuration and heeds the changes only. Machines would inherit whatever label is not set here.
		Config: &container.Config{}, Changes: changes,
	})
	if err != nil {
		return p.failed(ctx, e, "keep the image "+image.ref+" with the agent", err)
	}
	p.forgetOldest(ctx, e)
	p.removeAbandoned(ctx, e)
	return nil
}

// fittingTakes is longer than any image takes to be given the agent.
const fittingTakes = time.Hour

// removeAbandoned removes the containers that images were to be made by when their server was killed. They never ran.
func (p *Provider) removeAbandoned(ctx context.Context, e *engine) {
	list, err := e.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelFitting)})
	if err != nil {
		p.log.Debug("the containers that images are made by could not be listed", "error", err)
		return
	}
	for _, id := range abandoned(list.Items, time.Now()) {
		if _, err := e.ContainerRemove(ctx, id, client.ContainerRemoveOptions{RemoveVolumes: true}); err != nil && !isGone(err) {
			p.log.Debug("a container that an image was to be made by stays", "container", id, "error", err)
		}
	}
}

// abandoned returns those of the containers that nobody can be waiting for any more.
func abandoned(list []container.Summary, now time.Time) (ids []string) {
	for _, c := range list {
		if c.State == container.StateCreated && c.Labels[labelFitting] != "" && now.Sub(time.Unix(c.Created, 0)) > fittingTakes {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// copyIn extracts an archive into a container's file system.
func (p *Provider) copyIn(ctx context.Context, e *engine, id string, write func(io.Writer) error) error {
	reading, writing := io.Pipe()
	var group sync.WaitGroup
	group.Go(func() { writing.CloseWithError(write(writing)) })
	_, err := e.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/", Content: reading})
	reading.CloseWithError(errors.New("docker: the archive is not read any more"))
	group.Wait()
	return err
}

// forgetOldest removes the oldest images with an agent when there are many. One that is used is kept by the engine.
func (p *Provider) forgetOldest(ctx context.Context, e *engine) {
	list, err := e.ImageList(ctx, client.ImageListOptions{Filters: make(client.Filters).Add("label", labelFitted)})
	if err != nil {
		p.log.Debug("the images with an agent could not be listed", "error", err)
		return
	}
	slices.SortFunc(list.Items, func(a, b imageSummary) int { return int(b.Created - a.Created) })
	for _, old := range list.Items[min(maxFitted, len(list.Items)):] {
		if _, err := e.ImageRemove(ctx, old.ID, client.ImageRemoveOptions{}); err != nil {
			p.log.Debug("an old image with an agent stays", "image", old.ID, "error", err)
		}
	}
}
