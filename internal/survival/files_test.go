//go:build linux

package survival_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

const greeting = "good morning\n"

// copies returns a job that prints its input and leaves a copy of it.
func (in *installation) copies() *dayfly.JobSpec {
	spec := in.shell(ledgerLine("start") + `cat hello.txt; cp hello.txt copy.txt; ` + ledgerLine("end"))
	spec.Inputs = []dayfly.InputSpec{{Name: "hello.txt", ContentType: "text/plain"}}
	spec.Outputs = []string{"copy.txt"}
	return spec
}

// copied makes sure that such a job has run once, and that every byte came through.
func (in *installation) copied(id string) *dayfly.Job {
	in.t.Helper()
	job := in.check(id, outcome{state: dayfly.Succeeded, attempts: 1})
	if got := string(in.printed(id, len(job.Attempts), "stdout")); got != greeting {
		in.t.Errorf("got output %q, want %q", got, greeting)
	}
	if len(job.Artifacts) != 1 {
		in.t.Fatalf("got artifacts %v, want one", job.Artifacts)
	}
	if got := in.downloaded(job.Artifacts[0]); got != greeting {
		in.t.Errorf("the artifact holds %q, want %q", got, greeting)
	}
	return job
}

// downloaded returns what an artifact holds.
func (in *installation) downloaded(a dayfly.Artifact) string {
	in.t.Helper()
	body, err := in.client.Download(in.t.Context(), a)
	if err != nil {
		in.t.Fatalf("downloading %s: %v", a.Name, err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		in.t.Fatalf("downloading %s: %v", a.Name, err)
	}
	return string(data)
}

// upload puts an input where the job says, again and again while the server is away.
func (in *installation) upload(job *dayfly.Job, name, contentType, content string) {
	in.t.Helper()
	for _, input := range job.Inputs {
		if input.Name != name {
			continue
		}
		eventually(in.t, patience, "the input is uploaded", func() error {
			req, err := http.NewRequestWithContext(in.t.Context(), input.Upload.Method, input.Upload.URL, bytes.NewReader([]byte(content)))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", contentType)
			for key, value := range input.Upload.Headers {
				req.Header.Set(key, value)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode >= 300 {
				return errors.New(resp.Status)
			}
			return nil
		})
		return
	}
	in.t.Fatalf("job %s has no input %s", job.ID, name)
}

// submitCopies submits a job that copies its input, and starts it.
func (in *installation) submitCopies() *dayfly.Job {
	in.t.Helper()
	job := in.submit(in.copies())
	in.upload(job, "hello.txt", "text/plain", greeting)
	if _, err := in.client.Start(in.t.Context(), job.ID); err != nil {
		in.t.Fatalf("start: %v", err)
	}
	return job
}

func runJobWithInput(t *testing.T, in *installation) {
	job := in.submitCopies()
	in.copied(job.ID)
	in.only(job.ID)
	in.empty()
}

// runJobWithOutput runs a job whose artifact is the first file that the server is given.
func runJobWithOutput(t *testing.T, in *installation) {
	spec := in.shell(ledgerLine("start") + `i=0; while [ $i -lt 5000 ]; do echo "this is line $i"; i=$((i+1)); done > lines.txt; ` + ledgerLine("end"))
	spec.Outputs = []string{"lines.txt"}
	job := in.submit(spec)
	ended := in.check(job.ID, outcome{state: dayfly.Succeeded, attempts: 1})
	if len(ended.Artifacts) != 1 {
		t.Fatalf("got artifacts %v, want one", ended.Artifacts)
	}
	var want strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&want, "this is line %d\n", i)
	}
	if got := in.downloaded(ended.Artifacts[0]); got != want.String() {
		t.Errorf("the artifact holds %d bytes %.100q, want %d bytes %.100q", len(got), got, want.Len(), want.String())
	}
	in.only(job.ID)
	in.empty()
}

// long is a task that prints long enough for its server to be killed and started again meanwhile.
func long() task { return task{lines: 250, exit: taskExit} }

// tearLog kills the server while a job prints, and leaves half a record at the end of its log, as a power failure does.
func tearLog(t *testing.T, in *installation) {
	s := in.start("")
	job := in.submit(in.spec(long()))
	in.running(job.ID)
	var log string
	eventually(t, patience, "there is output", func() error {
		files, err := filepath.Glob(filepath.Join(in.dir, "logs", "*", "*.log"))
		if err != nil || len(files) != 1 {
			return fmt.Errorf("logs: %v, %w", files, err)
		}
		log = files[0]
		return nil
	})
	s.kill(t)
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("\x12\x34\x56\x78 half a record"); err != nil {
		t.Fatal(err)
	}
}

func mendLog(t *testing.T, in *installation) {
	job := in.theJob()
	in.checkTask(job.ID, long())
	in.empty()
}

// theJob returns the oldest job there is.
func (in *installation) theJob() *dayfly.Job {
	in.t.Helper()
	var oldest *dayfly.Job
	for job, err := range in.client.Jobs(in.t.Context(), nil) {
		if err != nil {
			in.t.Fatal(err)
		}
		oldest = job
	}
	if oldest == nil {
		in.t.Fatal("there is no job, want the one of the beginning")
	}
	return oldest
}

func runFirstJob(t *testing.T, in *installation) {
	s := in.start("")
	job := in.submitCopies()
	in.copied(job.ID)
	in.empty()
	s.kill(t)
}

// retryJob has the job of the beginning done once more, as a new job with a copy of its input.
func retryJob(t *testing.T, in *installation) {
	first := in.theJob()
	again, err := in.client.Retry(t.Context(), first.ID)
	if err != nil {
		t.Fatalf("retry: %v", err)
	}
	in.copied(again.ID)
	in.copied(first.ID)
	in.empty()
}

// removeJob removes a job with everything that it left.
func removeJob(t *testing.T, in *installation) {
	job := in.submitCopies()
	in.copied(job.ID)
	in.empty()
	if err := in.client.Delete(t.Context(), job.ID); err != nil && !errors.Is(err, fault.NotFound) {
		t.Fatalf("delete: %v", err)
	}
	if _, err := in.client.Job(t.Context(), job.ID); !errors.Is(err, fault.NotFound) {
		t.Errorf("reading a removed job: got %v, want not_found", err)
	}
	for _, dir := range []string{"logs", "blobs"} {
		err := filepath.WalkDir(filepath.Join(in.dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				t.Errorf("%s is left, want nothing of the job", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
