package machine

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/fault"
)

// MaxLifetime is the longest Lifetime a Spec may ask for.
const MaxLifetime = 30 * 24 * time.Hour

// Validate reports what every provider must refuse in a Spec, as fault.Invalid: a name, owner or label that does not
// have its form, no lifetime, nothing to run or two things, files
// without a place, an environment name or value that no process
// could be given, text that is not UTF-8. Providers call it first and then add their own refusals.
func (s *Spec) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("machine: %w: %s", fault.Invalid, fmt.Sprintf(format, args...))
	}
	if !validName(s.Name) {
		return bad("name %q must be 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter", s.Name)
	}
	if !validName(s.Owner) {
		return bad("owner %q must be 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter", s.Owner)
	}
	if len(s.Labels) > 32 {
		return bad("%d labels; at most 32 are allowed", len(s.Labels))
	}
	for key, value := range s.Labels {
		if !validName(strings.ReplaceAll(key, "_", "-")) {
			return bad("label key %q must be 1 to 63 characters of a-z, 0-9, '-' and '_', beginning with a letter", key)
		}
		if len(value) > 256 || !isText(value) {
			return bad("the value of label %s must be at most 256 bytes of UTF-8 without NUL", key)
		}
	}
	if s.Lifetime <= 0 || s.Lifetime > MaxLifetime {
		return bad("lifetime %v must be more than 0 and at most %v: every machine carries its own end", s.Lifetime, MaxLifetime)
	}
	if s.Agent != nil && s.Program != nil || (s.Agent != nil || s.Program != nil) && len(s.Command) > 0 {
		return bad("only one of agent, program and command may be given")
	}
	if s.Agent == nil && s.Program == nil && len(s.Command) == 0 && s.Image == "" {
		return bad("one of agent, program, command and image must be given: there is nothing to run")
	}
	if err := s.Program.validate(); err != nil {
		return bad("%v", err)
	}
	if s.Program != nil && len(s.Entrypoint) > 0 {
		return bad("a program that is brought along is itself what runs first, so there can be no entrypoint")
	}
	if s.Agent != nil && (s.Agent.URL == "" || s.Agent.Attempt == "" || s.Agent.Token == "") {
		return bad("an agent needs url, attempt and token")
	}
	if len(s.Command) > 0 && s.Command[0] == "" {
		return bad("the command's first word is empty")
	}
	if len(s.Entrypoint) > 0 && (s.Entrypoint[0] == "" || s.Image == "") {
		return bad("an entrypoint needs an image and a first word that is not empty")
	}
	for _, arg := range slices.Concat(s.Command, s.Entrypoint) {
		if !isText(arg) {
			return bad("the command holds a NUL byte, or bytes that are not UTF-8")
		}
	}
	for key, value := range s.Env {
		if key == "" || strings.Contains(key, "=") || !isText(key) || !isText(value) {
			return bad("environment variable %q is not one a process can be given: it needs a name without =, and both in UTF-8 without NUL", key)
		}
	}
	if math.IsNaN(s.Size.CPUs) || math.IsInf(s.Size.CPUs, 0) {
		return bad("the number of CPUs is not a number")
	}
	if !isText(s.Image) || len(s.Image) > 1024 {
		return bad("the image must be at most 1024 bytes of UTF-8 without NUL")
	}
	if !isText(s.Region) || len(s.Region) > 256 || !isText(s.User) || len(s.User) > 256 {
		return bad("region and user must each be at most 256 bytes of UTF-8 without NUL")
	}
	if err := s.validateFiles(); err != nil {
		return bad("%v", err)
	}
	if s.Size.CPUs < 0 || s.Size.MemoryMB < 0 || s.Size.DiskMB < 0 || s.Size.Processes < 0 {
		return bad("a size cannot be negative")
	}
	return nil
}

func (p *Program) validate() error {
	if p == nil {
		return nil
	}
	if !path.IsAbs(p.File) || !isText(p.File) || len(p.File) > 4096 {
		return fmt.Errorf("the program %q needs an absolute path of at most 4096 bytes", p.File)
	}
	for _, arg := range p.Args {
		if !isText(arg) {
			return errors.New("an argument of the program holds a NUL byte, or bytes that are not UTF-8")
		}
	}
	return nil
}

// MaxFileBytes is how much the Files of a Spec may hold together.
const MaxFileBytes = 1 << 20

func (s *Spec) validateFiles() error {
	total, seen := 0, map[string]bool{}
	for _, file := range s.Files {
		total += len(file.Data)
		switch {
		case !path.IsAbs(file.Path) || path.Clean(file.Path) != file.Path || file.Path == "/" || !isText(file.Path):
			return fmt.Errorf("the file %q needs an absolute path without \"..\", doubled or trailing slashes", file.Path)
		case seen[file.Path]:
			return fmt.Errorf("the file %q is given twice", file.Path)
		case file.Mode&^0o777 != 0:
			return fmt.Errorf("the mode %#o of the file %q has more than permission bits", file.Mode, file.Path)
		}
		seen[file.Path] = true
	}
	if total > MaxFileBytes {
		return fmt.Errorf("the files hold %d bytes together; at most %d are allowed", total, MaxFileBytes)
	}
	return nil
}

// isText reports whether a process can be given s, and whether every provider can pass it on: most do so as JSON, which
// puts other bytes in the place of what is not UTF-8.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func validName(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] < 'a' || name[0] > 'z' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
