package docker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// CheckProgram implements machine.Carrier: the program must be static, and for the processors of the engine's computer.
func (p *Provider) CheckProgram(ctx context.Context, program *machine.Program) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	carried, err := p.loadOf(program)
	if err != nil {
		return err
	}
	e, err := p.connect()
	if err != nil {
		return err
	}
	version, err := e.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return p.failed(ctx, e, "say what computer it runs on", err)
	}
	if arch := carried.program.arch; version.Arch != "" && version.Arch != arch {
		return fault.Say(fault.Unsupported, "the program %s is for %s processors, and the engine at %s has %s; build the program with GOARCH=%s",
			carried.program.name, arch, e.host, version.Arch, version.Arch)
	}
	return nil
}

// loadOf returns what is put into an image for a machine of the program, which may be nil.
func (p *Provider) loadOf(program *machine.Program) (*load, error) {
	static := func(file string) string {
		name := nameOf(file)
		return fmt.Sprintf("build it for the container's computer and without C libraries: CGO_ENABLED=0 GOOS=linux go build -o %s .", name)
	}
	carried := &load{}
	var err error
	if program != nil {
		carried.program, err = p.executables.read(program.File, "the program that is to run in containers", static(program.File))
		if err != nil {
			return nil, err
		}
	}
	what, remedy := "the agent that containers run", "build both programs with make build, "+
		"or put a dayfly-agent beside dayfly that was built with CGO_ENABLED=0 GOOS=linux go build ./cmd/dayfly-agent, or name one with providers.docker.agent"
	if p.agent.File == machine.ThisProgram {
		what, remedy = "this program, which is also the first process of its containers", static(p.agent.File)
	}
	carried.agent, err = p.executables.read(p.agent.File, what, remedy)
	return carried, err
}

// fits reports, as fault.Invalid, an image that is for other processors than what is to run in it. "" is an image that does
// not say.
func (l *load) fits(ref, arch string) error {
	if l.program != nil && arch != "" && arch != l.program.arch {
		return fault.Say(fault.Invalid, "the image %s is for %s processors, and the program %s that would run in it is for %s; "+
			"use an image for %s, or build the program with GOARCH=%s", ref, arch, l.program.name, l.program.arch, l.program.arch, arch)
	}
	if arch != "" && arch != l.agent.arch {
		return fault.Say(fault.Invalid, "the image %s is for %s processors, and the agent that would run in it is for %s; "+
			"use an image for %s, or name an agent for %s with providers.docker.agent", ref, arch, l.agent.arch, l.agent.arch, arch)
	}
	return nil
}

const (
	// baseName is what the images are called that are made for programs which ask for none.
	baseName = "dayfly-base"
	// maxBases is how many of them are kept at the engine: one for every set of certificates that there was.
	maxBases = 4
)

// base makes the image for programs that ask for none, if the engine does not have it, and returns its name.
func (p *Provider) base(ctx context.Context, e *engine) (string, error) {
	var content bytes.Buffer
	if err := writeBase(&content); err != nil {
		return "", fmt.Errorf("docker: %w: making an image: %w", fault.Internal, err)
	}
	sum := sha256.Sum256(content.Bytes())
	name := baseName + ":" + hex.EncodeToString(sum[:8])
	unlock, err := p.fits.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := e.ImageInspect(ctx, name); err == nil {
		return name, nil
	} else if !errdefs.IsNotFound(err) {
		return "", p.failed(ctx, e, "look for the image "+name, err)
	}
	answer, err := e.ImageImport(ctx, client.ImageImportSource{Source: &content, SourceName: "-"}, name, client.ImageImportOptions{
		Message: "for programs that bring all they need", Changes: []string{"LABEL " + labelBase + "=true"},
	})
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(answer, maxAnswer))
		answer.Close()
	}
	if err != nil {
		return "", p.failed(ctx, e, "make the image "+name, err)
	}
	if _, err := e.ImageInspect(ctx, name); err != nil {
		return "", p.failed(ctx, e, "make the image "+name, err)
	}
	p.forgetBases(ctx, e)
	return name, nil
}

// forgetBases removes the oldest images that base has made when there are many. One that is used is kept by the engine.
func (p *Provider) forgetBases(ctx context.Context, e *engine) {
	list, err := e.ImageList(ctx, client.ImageListOptions{Filters: make(client.Filters).Add("reference", baseName).Add("label", labelBase)})
	if err != nil {
		p.log.Debug("the images for programs could not be listed", "error", err)
		return
	}
	slices.SortFunc(list.Items, func(a, b imageSummary) int { return int(b.Created - a.Created) })
	for _, old := range list.Items[min(maxBases, len(list.Items)):] {
		if _, err := e.ImageRemove(ctx, old.ID, client.ImageRemoveOptions{}); err != nil {
			p.log.Debug("an old image for programs stays", "image", filepath.Base(old.ID), "error", err)
		}
	}
}
