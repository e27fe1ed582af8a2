package local_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// program returns the smallest program that there can be for 64-bit processors of a kind, and that wants a loader, if one is
// named.
func program(t *testing.T, kind elf.Machine, loader string) []byte {
	t.Helper()
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(kind), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
		Phoff: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 64 + 56, Filesz: uint64(len(loader) + 1)}
	if loader == "" {
		segment = elf.Prog64{Type: uint32(elf.PT_NULL)}
	}
	var text bytes.Buffer
	for _, part := range []any{header, segment, append([]byte(loader), 0)} {
		if err := binary.Write(&text, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return text.Bytes()
}

func TestAProgramThatThisComputerCannotExecuteIsRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	p := newProvider(t, newDir(t), false)
	own := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV}[runtime.GOARCH]
	if own == elf.EM_NONE {
		t.Fatalf("the test does not know the processors of this computer, %s; add them", runtime.GOARCH)
	}
	foreign := "GOARCH=" + runtime.GOARCH
	if handlers, err := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-*"); err == nil && len(handlers) > 0 {
		foreign = "" // somebody here executes them
	}
	for what, c := range map[string]struct {
		text []byte
		want string // "": it is not refused
	}{
		"our own processors":   {program(t, own, ""), ""},
		"a loader that exists": {program(t, own, "/bin/sh"), ""},
		"a script":             {[]byte("#!/bin/sh\n"), ""},
		"other processors":     {program(t, elf.EM_MIPS, ""), foreign},
		"no such loader":       {program(t, own, "/nowhere/ld.so"), "needs /nowhere/ld.so, which is not here; build it with CGO_ENABLED=0"},
		"another system's":     {[]byte("\xcf\xfa\xed\xfe and so on"), "GOOS=linux"},
	} {
		file := filepath.Join(t.TempDir(), "thumbnails")
		if err := os.WriteFile(file, c.text, 0o700); err != nil {
			t.Fatal(err)
		}
		err := p.CheckProgram(t.Context(), &machine.Program{File: file})
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("CheckProgram of %s: got error %v, want one with %q", what, err, c.want)
		}
	}
}
