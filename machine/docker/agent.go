package docker

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What the agent finds in an image that was made for it.
const (
	agentDir    = "/dayfly"
	agentFile   = "/dayfly/agent"   // the program
	programDir  = "/dayfly/program" // where a machine's own program is, under its name
	workDir     = "/dayfly/work"    // the working directory, in images that name none
	scratchDir  = "/dayfly/scratch" // what the agent keeps until the server has it
	exitFile    = "/dayfly/exit"    // that the machine has begun, and how it ended when a status does not say it
	orderFile   = "/dayfly/order"   // whether the machine is to be suspended; it is there when somebody has said so
	fitRevision = "1"               // of what is put into an image beside the programs; changes with it
)

// load is what is put into an image so that machines can be made of it.
type load struct {
	agent   *executable
	program *executable // nil: the machine's program is in the image
}

// hash tells loads apart.
func (l *load) hash() string {
	if l.program == nil {
		return l.agent.hash + fitRevision
	}
	return fmt.Sprintf("%s%s %q %s", l.agent.hash, fitRevision, l.program.name, l.program.hash)
}

// programFile is where the program is in the image.
func (l *load) programFile() string { return programDir + "/" + l.program.name }

// archive writes the load as an archive.
func (l *load) archive(w io.Writer) error {
	t := tar.NewWriter(w)
	for _, header := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: agentDir, Mode: 0o755},
		// Whoever the image's user is, it works here.
		{Typeflag: tar.TypeDir, Name: workDir, Mode: 0o1777},
		{Typeflag: tar.TypeDir, Name: scratchDir, Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: exitFile, Mode: 0o666},
	} {
		header.ModTime = time.Unix(0, 0)
		if err := t.WriteHeader(header); err != nil {
			return err
		}
	}
	if err := l.agent.write(t, agentFile); err != nil {
		return err
	}
	if l.program == nil {
		return t.Close()
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: programDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if l.program.hash == l.agent.hash {
		// A program that is its own agent is there once.
		link := &tar.Header{Typeflag: tar.TypeLink, Name: l.programFile(), Linkname: agentFile, Mode: 0o755, ModTime: time.Unix(0, 0)}
		if err := t.WriteHeader(link); err != nil {
			return err
		}
		return t.Close()
	}
	if err := l.program.write(t, l.programFile()); err != nil {
		return err
	}
	return t.Close()
}

// certificates are the places of the certificates by which this computer knows others, as Linux distributions have them.
func certificates() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}
}

// maxCertificates is the size of the largest file of certificates that is taken along, in bytes.
const maxCertificates = 4 << 20

// writeBase writes the file system of the image for programs that ask for none: a place for temporary files, names for the
// users, and the certificates of this computer, without which nothing could be asked of an https URL.
func writeBase(w io.Writer) error {
	t := tar.NewWriter(w)
	add := func(header *tar.Header, data []byte) error {
		header.Size, header.ModTime = int64(len(data)), time.Unix(0, 0)
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		_, err := t.Write(data)
		return err
	}
	if err := add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil); err != nil {
		return err
	}
	files := map[string][]byte{
		"etc/passwd": []byte("root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
		"etc/group":  []byte("root:x:0:\nnobody:x:65534:\n"),
	}
	for _, file := range certificates() {
		if info, err := os.Stat(file); err != nil || info.Size() > maxCertificates {
			continue
		}
		if data, err := os.ReadFile(file); err == nil {
			files["etc/ssl/certs/ca-certificates.crt"] = data
			break
		}
	}
	for _, name := range []string{"etc/passwd", "etc/group", "etc/ssl/certs/ca-certificates.crt"} {
		if data, ok := files[name]; ok {
			if err := add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, data); err != nil {
				return err
			}
		}
	}
	return t.Close()
}

// argv is a command line of the agent in a container.
func (p *Provider) argv(args ...string) []string {
	return append(append([]string{agentFile}, p.agent.Args...), args...)
}

// nameOf is what a program is called in an image.
func nameOf(file string) string {
	if own, err := os.Executable(); file == thisProgram && err == nil {
		file = strings.TrimSuffix(own, " (deleted)")
	}
	return filepath.Base(file)
}
