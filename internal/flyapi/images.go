package flyapi

import (
	"os"
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
	// Files is the directory for the files of machines, which are put into a directory of their own there because
	// the machine shares this computer's file system.
	Files string
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
	if !filepath.IsAbs(i.Files) {
		return fault.Say(fault.Invalid, "the directory for the files of machines, %q, is not an absolute path", i.Files)
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

// apply makes a spec one for a plain process: the program that stands for the image, started in its directory, with the
// machine's files in a directory of their own. What names one of them, a variable's value or a word of the command, is
// made to name it there.
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
	if len(spec.Files) > 0 {
		folder, err := i.write(spec)
		if err != nil {
			return nil, err
		}
		for _, f := range spec.Files {
			there := filepath.Join(folder, f.Path)
			for name, value := range spec.Env {
				if value == f.Path {
					spec.Env[name] = there
				}
			}
			for n, word := range spec.Command {
				if word == f.Path {
					spec.Command[n] = there
				}
			}
		}
		spec.Files = nil
	}
	if image.Dir != "" {
		spec.Command = append([]string{"/bin/sh", "-c", `cd "$0" && exec "$@"`, image.Dir}, spec.Command...)
	}
	return spec, nil
}

// write puts the files of a launch into its directory and returns that. It may be repeated.
func (i *Images) write(spec *machine.Spec) (folder string, err error) {
	folder = i.folder(spec.Name)
	for _, f := range spec.Files {
		to := filepath.Join(folder, f.Path)
		if err = os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			break
		}
		mode := os.FileMode(f.Mode)
		if mode == 0 {
			mode = 0o644
		}
		if err = os.Remove(to); err != nil && !os.IsNotExist(err) {
			break
		}
		if err = os.WriteFile(to, f.Data, 0o600); err != nil {
			break
		}
		if err = os.Chmod(to, mode); err != nil {
			break
		}
	}
	if err != nil {
		return "", fault.Say(fault.Unavailable, "the machine's files cannot be written: %v", err)
	}
	return folder, nil
}

func (i *Images) folder(launch string) string { return filepath.Join(i.Files, launch) }

// removeFiles removes the files of a launch that is over. What cannot be removed is found again by the sweep.
func (s *Service) removeFiles(r *record) {
	if s.Images != nil && r.Launch > 0 {
		if err := os.RemoveAll(s.Images.folder(r.machineName())); err != nil {
			s.log.Warn("the files of a machine cannot be removed", "machine", r.ID, "error", err)
		}
	}
}
