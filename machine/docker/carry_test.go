package docker_test

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/machine"
)

// foreign writes the smallest program that there can be for 64-bit processors of a kind.
func foreign(t *testing.T, kind elf.Machine) string {
	t.Helper()
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(kind), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	}
	text, err := binary.Append(nil, binary.LittleEndian, header)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "thumbnails")
	if err := os.WriteFile(file, text, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAProgramThatCannotRunInAContainerIsRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	p := newProvider(t, nil)
	image := dockertest.Shared(t).Image(t, "dayfly-test/bb:1")
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if p.CheckProgram(t.Context(), &machine.Program{File: shell}) == nil {
		t.Fatalf("%s needs no libraries, and the test needs a program that does", shell)
	}
	arm := foreign(t, elf.EM_AARCH64)
	for what, c := range map[string]struct {
		file string
		want []string
	}{
		"libraries":        {shell, []string{"cgo", "CGO_ENABLED=0 GOOS=linux go build"}},
		"other processors": {arm, []string{"thumbnails is for arm64", "GOARCH="}},
		"no program":       {filepath.Join("testdata", "..", "docker.go"), []string{"is no program for Linux", "CGO_ENABLED=0"}},
		"nothing":          {"/nowhere/thumbnails", []string{"cannot be read", "CGO_ENABLED=0"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			file, err := filepath.Abs(c.file)
			if err != nil {
				t.Fatal(err)
			}
			err = p.CheckProgram(t.Context(), &machine.Program{File: file})
			if !errors.Is(err, fault.Unsupported) {
				t.Errorf("CheckProgram: got error %v, want fault.Unsupported", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("CheckProgram: got %q, want a sentence with %q", err, want)
				}
			}
			for _, ref := range []string{"", image} {
				m, err := p.Create(t.Context(), &machine.Spec{
					Name: "mt-refused", Owner: "mt", Lifetime: time.Minute, Image: ref, Program: &machine.Program{File: file},
				})
				if kind := fault.Of(err); m != nil || kind != fault.Unsupported && kind != fault.Invalid {
					t.Errorf("Create in the image %q: got %v and error %v, want fault.Unsupported or fault.Invalid", ref, m, err)
				}
			}
		})
	}
}
