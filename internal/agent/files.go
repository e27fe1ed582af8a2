package agent

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/internal/api/strict"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// The files in the scratch directory. None exists unless it is needed.
const (
	inputFile       = "input.json"       // the payload; DAYFLY_INPUT
	resultFile      = "result.json"      // what the command returns; DAYFLY_RESULT
	progressFile    = "progress"         // what the command says of itself; DAYFLY_PROGRESS
	undeliveredFile = "undelivered.json" // a result that the server was not there to take
)

// files are the two directories of an attempt. What is in them belongs to the command, which may put a symbolic link
// or a named pipe where a file should be; so they are opened through an os.Root, which nothing leads out of, and
// without waiting. They are opened before the command starts, so that it cannot put another directory in their place.
type files struct {
	scratch *os.Root
	work    *os.Root // nil when the job has neither inputs nor outputs
}

func openScratch(p *Place) (*files, error) {
	scratch, err := os.OpenRoot(p.ScratchDir)
	if err != nil {
		return nil, fmt.Errorf("agent: the scratch directory: %w", err)
	}
	return &files{scratch: scratch}, nil
}

func (f *files) openWork(p *Place) (err error) {
	if f.work, err = os.OpenRoot(p.WorkDir); err != nil {
		return localFailure("opening the working directory", err)
	}
	return nil
}

func (f *files) close() {
	f.scratch.Close()
	if f.work != nil {
		f.work.Close()
	}
}

// environment writes the payload file, if there is a payload, and returns the command's whole environment. The agent's
// own variables win over the job's, and those over the machine's. Nothing of the agent itself is passed on: its
// bootstrap token is none of the command's business.
func (a *attempt) environment() ([]string, error) {
	scratch, err := filepath.Abs(a.place.ScratchDir)
	if err != nil {
		return nil, err
	}
	e := environment{at: make(map[string]int, len(a.place.Env)+len(a.job.Env)+8)}
	for _, entry := range a.place.Env {
		if key, value, ok := strings.Cut(entry, "="); ok {
			e.set(key, value)
		}
	}
	for key, value := range a.job.Env {
		e.set(key, value)
	}
	e.set("DAYFLY_JOB_ID", a.job.Job)
	e.set("DAYFLY_ATTEMPT", strconv.Itoa(a.job.Number))
	e.set("DAYFLY_URL", a.line.home())
	e.set("DAYFLY_TOKEN", a.job.JobToken)
	e.set("DAYFLY_RESULT", filepath.Join(scratch, resultFile))
	e.set("DAYFLY_PROGRESS", filepath.Join(scratch, progressFile))
	if len(a.job.Payload) > 0 {
		if err := replace(a.files.scratch, inputFile, a.job.Payload); err != nil {
			return nil, fmt.Errorf("writing the payload: %w", err)
		}
		e.set("DAYFLY_INPUT", filepath.Join(scratch, inputFile))
	}
	return e.entries, nil
}

// environment is a list of KEY=VALUE in which each key occurs once.
type environment struct {
	entries []string
	at      map[string]int // where each key is in entries
}

func (e *environment) set(key, value string) {
	if strings.HasPrefix(key, "DAYFLY_AGENT_") {
		return
	}
	if i, ok := e.at[key]; ok {
		e.entries[i] = key + "=" + value
		return
	}
	e.at[key] = len(e.entries)
	e.entries = append(e.entries, key+"="+value)
}

// open opens a regular file that the command may have made. It fails with fs.ErrInvalid for anything else.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	file, err := root.OpenFile(name, openSafely, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", name, fs.ErrInvalid)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// createTemporary makes a file under a name that nobody could have taken, and returns that too. A named pipe that a
// command has left under a name it could guess would make the agent wait for a reader for ever.
func createTemporary(root *os.Root, mode fs.FileMode) (*os.File, string, error) {
	name := ".dayfly-" + rand.Text() + ".part"
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return file, name, err
}

// replace gives the file of that name new content, whatever is there under the name: nobody sees half of it, and what
// a command has left there is not opened.
func replace(root *os.Root, name string, data []byte) error {
	file, temporary, err := createTemporary(root, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = root.Rename(temporary, name)
	}
	if err != nil {
		// It is in nobody's way, and goes with its directory.
		_ = root.Remove(temporary)
	}
	return err
}

// readValue returns the JSON that the command has written to its result file, or nil if it has not, or a sentence that
// says why that cannot be used. It judges as strictly as the server, which would refuse the whole result for a value
// that is not UTF-8, say.
func (f *files) readValue() (value json.RawMessage, warning string) {
	file, _, err := open(f.scratch, resultFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ""
	}
	if err != nil {
		return nil, fmt.Sprintf("The file DAYFLY_RESULT names could not be read: %v.", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, wire.MaxResultValue+1))
	switch {
	case err != nil:
		return nil, fmt.Sprintf("The file DAYFLY_RESULT names could not be read: %v.", err)
	case len(data) > wire.MaxResultValue:
		return nil, fmt.Sprintf("The file DAYFLY_RESULT names is larger than %s, so the job has no result value. Declare large results as outputs.",
			byteSize(wire.MaxResultValue))
	case len(bytes.TrimSpace(data)) == 0:
		return nil, ""
	}
	var compact bytes.Buffer
	_, err = strict.NewDecoder[json.RawMessage]().Decode(data)
	if err = cmp.Or(err, json.Compact(&compact, data)); err != nil {
		return nil, fmt.Sprintf("The file DAYFLY_RESULT names does not hold JSON that the server takes, so the job has no result value: %s.",
			strings.TrimPrefix(err.Error(), ": ")) // which is where the place in the document would be
	}
	return compact.Bytes(), ""
}

// fileVersion tells whether a file has changed.
type fileVersion struct {
	size  int64
	wrote time.Time
}

// progressVersion returns the version of the progress file, if there is one.
func (f *files) progressVersion() (fileVersion, bool) {
	info, err := f.scratch.Lstat(progressFile)
	if err != nil || !info.Mode().IsRegular() {
		return fileVersion{}, false
	}
	return fileVersion{info.Size(), info.ModTime()}, true
}

// readProgress returns what the end of the progress file says, or nil. With finished set nobody writes any more, so
// that a last line without an end counts too.
func (f *files) readProgress(finished bool) *wire.Progress {
	file, info, err := open(f.scratch, progressFile)
	if err != nil {
		return nil
	}
	defer file.Close()
	tail := make([]byte, min(info.Size(), maxProgressTail))
	n, err := file.ReadAt(tail, info.Size()-int64(len(tail)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return parseProgress(tail[:n], finished)
}

// undelivered is a result on disk, with what it takes to deliver it.
type undelivered struct {
	Attempt  string       `json:"attempt"`
	Token    string       `json:"token"`
	OrphanMS int64        `json:"orphan_after_ms"`
	Result   *wire.Result `json:"result"`
}

func (u *undelivered) silence() time.Duration { return milliseconds(u.OrphanMS, defaultOrphanAfter) }

// maxUndelivered bounds what is read back; no result is larger.
const maxUndelivered = 2 * wire.MaxRequest

// saveUndelivered keeps the result where an agent that is started here later finds it.
func (f *files) saveUndelivered(u *undelivered) error {
	data, err := encodeJSON(u)
	if err != nil {
		return err
	}
	return replace(f.scratch, undeliveredFile, data)
}

// loadUndelivered returns the result that an earlier agent of this attempt could not deliver, or nil.
func (f *files) loadUndelivered(attempt string) (*undelivered, error) {
	file, info, err := open(f.scratch, undeliveredFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info.Size() > maxUndelivered {
		return nil, fmt.Errorf("agent: %s has %d bytes", undeliveredFile, info.Size())
	}
	var u undelivered
	if err := json.NewDecoder(io.LimitReader(file, maxUndelivered)).Decode(&u); err != nil {
		return nil, err
	}
	if u.Attempt != attempt || u.Result == nil {
		return nil, fmt.Errorf("agent: %s is of another attempt", undeliveredFile)
	}
	return &u, nil
}

func (f *files) forgetUndelivered() error { return f.scratch.Remove(undeliveredFile) }
