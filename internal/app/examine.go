package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/server"
)

// Result is how one check of [Examine] came out.
type Result string

// The results.
const (
	Good Result = "ok"   // as it should be
	Note Result = "note" // works, and could be better
	Bad  Result = "bad"  // keeps jobs from running
)

// Check is one thing that was examined, and what to do about it.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

// ExamineOptions are what [Examine] is told besides the configuration.
type ExamineOptions struct {
	Server  string // the URL of a server to look at instead of this computer; "": none
	Token   string // for it
	Program string // what to call the dayfly command in advice
}

// Examine looks at everything that jobs need on this computer, or, when a server is named, at that server.
func Examine(ctx context.Context, c *Config, o *ExamineOptions) []Check {
	if o.Server != "" {
		return []Check{examineServer(ctx, o.Server, o.Token)}
	}
	checks := []Check{examineDir(c.DataDir)}
	if checks[0].Result != Bad {
		checks = append(checks, examineSpace(c.DataDir, o.Program), examineFlush(c.DataDir))
	}
	if c.Blobs.URL != "" && checks[0].Result != Bad {
		checks = append(checks, examineBlobs(ctx, c))
	}
	checks = append(checks, examineOwner(ctx, c, o.Program), examineSupervisor(), examineLimits())
	if c.dockerBackend().enabled {
		checks = append(checks, examineContainers(ctx, &c.Providers.Docker))
	}
	return checks
}

// examineContainers says with what containers are made, or why they cannot be. Nobody who has no use for them has to care.
func examineContainers(ctx context.Context, d *Docker) Check {
	check := Check{Name: "containers", Result: Good}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	provider := d.provider(nil)
	text, err := provider.Check(ctx)
	if err := errors.Join(err, provider.Close()); err != nil {
		check.Result, check.Text = Note, "jobs cannot run in containers: "+err.Error()
		if sentence, ok := fault.Sentence(err); ok {
			check.Text = "jobs cannot run in containers: " + sentence
		}
		return check
	}
	check.Text = text
	return check
}

func examineServer(ctx context.Context, serverURL, token string) Check {
	check := Check{Name: "server"}
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	client, err := dayfly.NewClient(serverURL, &dayfly.ClientOptions{Token: token, Patience: -1})
	if err == nil {
		var version string
		if version, err = client.Version(ctx); err == nil {
			check.Result, check.Text = Good, fmt.Sprintf("%s answers, version %s", serverURL, version)
			return check
		}
	}
	check.Result, check.Text = Bad, err.Error()
	check.Advice = "Check --server or DAYFLY_URL, and that the server runs."
	if kind := fault.Of(err); kind == fault.Unauthenticated || kind == fault.Denied {
		check.Advice = "Set DAYFLY_TOKEN, or give --token, to one that the server's operator has made."
	}
	return check
}

func examineDir(dir string) Check {
	check := Check{Name: "state directory", Result: Good, Text: dir}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := dir
		for !exists(parent) {
			parent = filepath.Dir(parent)
		}
		if unix.Access(parent, unix.W_OK) != nil {
			check.Result, check.Text = Bad, fmt.Sprintf("%s does not exist and cannot be made in %s", dir, parent)
			check.Advice = "Set XDG_STATE_HOME or DAYFLY_DATA_DIR to a place you may write to."
			return check
		}
		check.Text += " does not exist yet; the first job makes it"
		return check
	case err != nil || !info.IsDir():
		check.Result, check.Text = Bad, dir+" is not a directory that can be used"
		return check
	case unix.Access(dir, unix.W_OK) != nil:
		check.Result, check.Text = Bad, dir+" cannot be written to"
		check.Advice = "Make it yours: chown -R $USER " + dir
		return check
	}
	switch open, err := server.CheckDir(dir); {
	case err != nil:
		check.Result, check.Text = Bad, err.Error()
	case open:
		check.Result, check.Text = Note, fmt.Sprintf("%s is open to other users (mode %04o)", dir, info.Mode().Perm())
		check.Advice = "The next command closes it; chmod 700 " + dir + " does so now."
	}
	return check
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil || path == filepath.Dir(path)
}

// The least free space, in bytes, below which jobs fail, and below which they soon may.
const (
	spaceBad  = 64 << 20
	spaceNote = 1 << 30
)

func examineSpace(dir, program string) Check {
	check := Check{Name: "disk space", Result: Good}
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		check.Result, check.Text = Note, fmt.Sprintf("the space on the disk of %s cannot be told: %v", dir, err)
		return check
	}
	free := stat.Bavail * uint64(stat.Bsize)
	check.Text = fmt.Sprintf("%d MiB free for inputs, outputs and logs", free>>20)
	switch {
	case free < spaceBad:
		check.Result, check.Advice = Bad, "Make room: "+program+" delete removes jobs with their files, and retention does so by itself."
	case free < spaceNote:
		check.Result, check.Advice = Note, "Jobs with large files may not fit."
	}
	return check
}

// slowFlush is how long a flush may take before it is worth a word: every job costs a few.
const slowFlush = 20 * time.Millisecond

// examineFlush measures what a durable write costs, which bounds how fast jobs can be acknowledged.
func examineFlush(dir string) Check {
	check := Check{Name: "durable writes", Result: Good}
	if _, err := os.Stat(dir); err != nil {
		check.Text = "not measured before there is a state directory"
		return check
	}
	took, err := timeFlush(dir)
	if err != nil {
		check.Result, check.Text = Bad, fmt.Sprintf("a file in %s cannot be written: %v", dir, err)
		return check
	}
	check.Text = fmt.Sprintf("a flush to disk takes %.1f ms", float64(took.Microseconds())/1000)
	if took > slowFlush {
		check.Result, check.Advice = Note, "Every job waits for a few of these; a faster disk makes short jobs faster."
	}
	return check
}

// timeFlush returns the quickest of a few flushes.
func timeFlush(dir string) (quickest time.Duration, err error) {
	file, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	for i := range 4 {
		begin := time.Now()
		if _, err := file.WriteString("measured\n"); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
		if took := time.Since(begin); i == 0 || took < quickest {
			quickest = took
		}
	}
	return quickest, nil
}

// examineOwner asks who serves the state directory; if nobody does, whether the default address is free for serve.
func examineOwner(ctx context.Context, c *Config, program string) Check {
	check := Check{Name: "server", Result: Good}
	owner, err := server.FindOwner(c.DataDir)
	switch {
	case err == nil && owner.URL != "":
		check = examineServer(ctx, owner.URL, owner.Token)
		kind := ""
		switch {
		case owner.Passing:
			kind = ", as " + owner.Command + ", until its command ends"
		case owner.Command != "":
			kind = ", as " + owner.Command
		}
		check.Text += fmt.Sprintf(" (process %d serves the state directory%s)", owner.PID, kind)
		return check
	case err == nil:
		check.Text = fmt.Sprintf("process %d is opening the state directory", owner.PID)
		return check
	case !errors.Is(err, fault.NotFound):
		check.Result, check.Text = Bad, err.Error()
		return check
	}
	check.Text = "none runs, and none is needed: commands serve themselves"
	for _, address := range c.Listen {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			check.Result = Note
			if number, ok := errors.AsType[syscall.Errno](err); ok { // without the names it was told with
				err = number
			}
			check.Text += fmt.Sprintf("; %s serve could not listen on %s: %v", program, address, err)
			check.Advice = "Give it another address with --listen, or end what is listening there."
			continue
		}
		listener.Close()
	}
	return check
}

func examineSupervisor() Check {
	command := supervisor()
	check := Check{Name: "supervisor", Result: Good, Text: strings.Join(command[:len(command)-1], " ")}
	if _, err := os.Stat(command[0]); err != nil {
		check.Result, check.Text = Bad, fmt.Sprintf("%s, which runs machines, cannot be found", command[0])
		check.Advice = "Install dayfly and dayfly-agent side by side."
	}
	return check
}

// examineLimits says which limits on jobs this computer enforces.
func examineLimits() Check {
	check := Check{Name: "job limits", Result: Good}
	host, err := process.NewHost(&process.Options{Prefix: "dayfly-doctor"})
	if err != nil {
		check.Result, check.Text = Bad, fmt.Sprintf("this computer cannot run process trees: %v", err)
		return check
	}
	defer host.Close()
	able := host.Abilities()
	var enforced, missing []string
	for _, limit := range []struct {
		name string
		able bool
	}{{"memory", able.Memory}, {"CPU", able.CPU}, {"processes", able.Processes}} {
		if limit.able {
			enforced = append(enforced, limit.name)
		} else {
			missing = append(missing, limit.name)
		}
	}
	check.Text = fmt.Sprintf("process trees are found by %s", able.Kill)
	if len(enforced) > 0 {
		check.Text += "; enforced: " + strings.Join(enforced, ", ")
	}
	if len(missing) > 0 {
		check.Result = Note
		check.Text += "; not enforced: " + strings.Join(missing, ", ")
		check.Advice = strings.Join(able.Why, " ")
	}
	return check
}
