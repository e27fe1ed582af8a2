package flyapi

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Images says which programs of this computer stand for which images, for a provider whose machines are plain processes.
type Images struct {
	// Known are tried in order; the first whose pattern matches counts.
	Known []Image
}

// Image is a program that stands for images.
type Image struct {
	// Pattern is a reference in which * stands for anything: "registry.example/app:*".
	Pattern string
	// Entrypoint and Command are those of the image: what a machine runs unless its configuration replaces them.
	Entrypoint, Command []string
	// Dir is the working directory, absolute; "": an empty one of the machine's own.
	Dir string
}

func (i *Images) check() error {
	if i == nil {
		return nil
	}
	for _, image := range i.Known {
		switch {
		case image.Pattern == "":
			return fault.Say(fault.Invalid, "an image without a pattern stands for nothing")
		case len(image.Command)+len(image.Entrypoint) == 0:
			return fault.Say(fault.Invalid, "the image %q has no command", image.Pattern)
		case image.Dir != "" && !filepath.IsAbs(image.Dir):
			return fault.Say(fault.Invalid, "the directory %q of the image %q is not an absolute path", image.Dir, image.Pattern)
		}
	}
	return nil
}

// find returns the program that stands for an image.
func (i *Images) find(reference string) (*Image, error) {
	for n := range i.Known {
		if matches(i.Known[n].Pattern, reference) {
			return &i.Known[n], nil
		}
	}
	return nil, fault.Say(fault.Invalid, "no program of this computer stands for the image %q: name one under fly_api.images, "+
		"with a pattern that matches it and a command", reference)
}

func matches(pattern, reference string) bool {
	parts := strings.Split(pattern, "*")
	for n := range parts {
		parts[n] = regexp.QuoteMeta(parts[n])
	}
	match, err := regexp.MatchString("^"+strings.Join(parts, ".*")+"$", reference)
	return match && err == nil
}

// filesVariable is where a machine of package local finds the directory that its files are below.
const filesVariable = "DAYFLY_FILES"

// apply makes a spec one for a plain process: the program that stands for the image, started in its directory. The file
// system is not the machine's own, so its files are below a directory that only the machine knows: what names one of them,
// a variable's value or a word of the command, is made to name it there by a line for a shell.
func (i *Images) apply(spec *machine.Spec, reference string, run program) (*machine.Spec, error) {
	image, err := i.find(reference)
	if err != nil {
		return nil, err
	}
	if run.user != "" {
		return nil, fault.Say(fault.Unsupported, "machines on this computer run as Dayfly's own user, and not as %q", run.user)
	}
	entrypoint, command := image.Entrypoint, image.Command
	if len(run.entrypoint) > 0 {
		entrypoint, command = run.entrypoint, nil
	}
	if len(run.command) > 0 {
		command = run.command
	}
	spec.Command = slices.Concat(entrypoint, command)
	if image.Dir == "" && len(spec.Files) == 0 {
		return spec, nil
	}
	line := "exec"
	if image.Dir != "" {
		line = "cd " + quote([]string{image.Dir}) + " && exec"
	}
	place := func(word string) (quoted string, isFile bool) {
		if slices.ContainsFunc(spec.Files, func(f machine.File) bool { return f.Path == word }) {
			return `"$` + filesVariable + `"` + quote([]string{word}), true
		}
		return quote([]string{word}), false
	}
	settings := ""
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		if there, isFile := place(spec.Env[name]); isFile {
			settings += " " + quote([]string{name + "="}) + there
		}
	}
	if settings != "" {
		line += " env" + settings
	}
	for _, word := range spec.Command {
		there, _ := place(word)
		line += " " + there
	}
	spec.Command = []string{"/bin/sh", "-c", line}
	return spec, nil
}
