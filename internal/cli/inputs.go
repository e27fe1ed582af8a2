package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
)

// maxInputs is how many files one job may be given; the server refuses more.
const maxInputs = 256

// input is one local file to upload.
type input struct {
	name string // where the job finds it, with forward slashes
	path string // where it is here, or "-"
	size int64
	kept *os.File // what standard input held, in a file without a name; nil for a file that has one
}

// open opens the input for reading. The caller closes it.
func (in *input) open() (io.ReadSeekCloser, error) {
	if in.kept == nil {
		return os.Open(in.path)
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{io.NewSectionReader(in.kept, 0, in.size), io.NopCloser(nil)}, nil
}

// collectInputs resolves the --in flags: a file, a directory whose files are taken with their paths, or "-" for
// standard input. Errors are sentences of kind invalid, found before anything is sent.
func collectInputs(ctx context.Context, flags []string, stdin io.Reader) (inputs []input, err error) {
	defer func() {
		if err != nil {
			closeInputs(inputs)
			inputs = nil
		}
	}()
	for _, flag := range flags {
		source, name := splitInput(flag)
		if source == "-" {
			in, err := keepInput(ctx, stdin, name)
			if err != nil {
				return inputs, err
			}
			inputs = append(inputs, in)
			continue
		}
		if inputs, err = appendInput(inputs, source, name); err != nil {
			return inputs, err
		}
	}
	names := map[string]string{}
	for _, in := range inputs {
		if other, taken := names[in.name]; taken {
			return inputs, fault.Say(fault.Invalid, "--in: %s and %s would both be %s in the job; name one of them with --in PATH:NAME", other, in.path, in.name)
		}
		names[in.name] = in.path
	}
	return inputs, nil
}

// splitInput splits PATH:NAME. A path that exists is taken whole, so that a file with a colon in its name needs no
// escaping.
func splitInput(flag string) (source, name string) {
	if _, err := os.Lstat(flag); err != nil {
		if i := strings.LastIndexByte(flag, ':'); i > 0 {
			return flag[:i], flag[i+1:]
		}
	}
	return flag, filepath.ToSlash(filepath.Base(filepath.Clean(flag)))
}

// appendInput adds the file, or the files of the directory, at source.
func appendInput(inputs []input, source, name string) ([]input, error) {
	info, err := os.Stat(source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return inputs, fault.Say(fault.Invalid, "--in: there is no file %s", source)
	case err != nil:
		return inputs, fault.Say(fault.Invalid, "--in: %v", err)
	case info.IsDir():
		return appendDirectory(inputs, source, name)
	}
	return appendFile(inputs, source, name, info)
}

func appendFile(inputs []input, source, name string, info fs.FileInfo) ([]input, error) {
	if !info.Mode().IsRegular() {
		return inputs, fault.Say(fault.Invalid, "--in: %s is not a file or a directory but a %s", source, kindOfFile(info.Mode()))
	}
	if err := checkInputName(name); err != nil {
		return inputs, err
	}
	if len(inputs) == maxInputs {
		return inputs, fault.Say(fault.Invalid, "--in: more than %d files; pack them into one with tar and unpack it in the job", maxInputs)
	}
	return append(inputs, input{name: path.Clean(name), path: source, size: info.Size()}), nil
}

// appendDirectory adds the files below a directory. It follows links to files, not to directories: those could lead
// in a circle, or out of what the user meant to send.
func appendDirectory(inputs []input, source, name string) ([]input, error) {
	if name != "." {
		if err := checkInputName(name); err != nil {
			return inputs, err
		}
	}
	before := len(inputs)
	err := filepath.WalkDir(source, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fault.Say(fault.Invalid, "--in: %v", err)
		}
		if entry.IsDir() {
			return nil
		}
		info, err := os.Stat(file)
		if err != nil {
			return fault.Say(fault.Invalid, "--in: %v", err)
		}
		if info.IsDir() {
			return fault.Say(fault.Invalid, "--in: %s is a link to a directory; give that directory with an --in of its own", file)
		}
		relative, err := filepath.Rel(source, file)
		if err != nil {
			return fmt.Errorf("--in: %w", err)
		}
		inputs, err = appendFile(inputs, file, path.Join(name, filepath.ToSlash(relative)), info)
		return err
	})
	if err == nil && len(inputs) == before {
		err = fault.Say(fault.Invalid, "--in: %s holds no file, and a directory alone cannot be sent; let the command make it with mkdir", source)
	}
	return inputs, err
}

// checkInputName refuses a name that would not stay inside the job's working directory.
func checkInputName(name string) error {
	switch {
	case name == "":
		return fault.Say(fault.Invalid, "--in: the name after the colon is empty")
	case len(name) > 1024:
		return fault.Say(fault.Invalid, "--in: the name %.40s… is longer than 1024 bytes", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fault.Say(fault.Invalid, "--in: the name %q holds a control character", name)
	case !filepath.IsLocal(filepath.FromSlash(name)) || path.Clean(name) == ".":
		return fault.Say(fault.Invalid, "--in: the name %s does not stay in the job's working directory; give one that does with --in PATH:NAME", name)
	}
	return nil
}

func kindOfFile(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// maxInput is the largest input that a server takes, in bytes, unless it is told otherwise.
const maxInput = 64 << 30

// keepInput keeps standard input in a temporary file, because an upload has to know its size. The file has no name, so
// that nothing stays of it however this process ends.
func keepInput(ctx context.Context, stdin io.Reader, name string) (input, error) {
	if name == "-" {
		return input{}, fault.Say(fault.Invalid, "--in: standard input needs a name: --in -:NAME")
	}
	if err := checkInputName(name); err != nil {
		return input{}, err
	}
	file, err := os.CreateTemp("", "dayfly-stdin-*")
	if err == nil {
		err = os.Remove(file.Name())
	}
	if err != nil {
		return input{}, fault.Say(fault.Invalid, "--in: standard input cannot be kept until it is uploaded: %v; TMPDIR says where to", err)
	}
	size, err := copyUnder(ctx, file, io.LimitReader(stdin, maxInput+1))
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = fault.Say(fault.Invalid, "--in: standard input cannot be kept until it is uploaded: %v", err)
	case size > maxInput:
		err = fault.Say(fault.Invalid, "--in: standard input is larger than %d GiB, which is the most that one input may have", maxInput>>30)
	}
	if err != nil {
		return input{}, errors.Join(err, file.Close())
	}
	return input{name: path.Clean(name), path: "-", size: size, kept: file}, nil
}

// copyUnder copies until the source or ctx ends. A read that waits for somebody to type cannot be ended: it is left behind.
func copyUnder(ctx context.Context, to io.Writer, from io.Reader) (int64, error) {
	type outcome struct {
		size int64
		err  error
	}
	copied := make(chan outcome, 1)
	go func() {
		size, err := io.Copy(to, from)
		copied <- outcome{size, err}
	}()
	select {
	case o := <-copied:
		return o.size, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func closeInputs(inputs []input) {
	for _, in := range inputs {
		if in.kept != nil {
			in.kept.Close()
		}
	}
}

// checkPattern refuses a pattern that could never match a file in the working directory.
func checkPattern(pattern string) error {
	if pattern == "" || path.IsAbs(pattern) || slices.Contains(strings.Split(pattern, "/"), "..") {
		return fault.Say(fault.Invalid, "%q does not stay in the job's working directory; patterns are relative to it", pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return fault.Say(fault.Invalid, "%q is not a pattern: %v", pattern, err)
	}
	return nil
}
