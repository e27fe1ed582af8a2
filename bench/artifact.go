package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

// measureArtifact measures how fast a large file goes in as an input, comes out as an artifact, and is kept when a job
// makes it. The baseline is curl against a bare file server on the same disk; beside it stands a file server that does
// what Dayfly does, checksum and flush included, to show what those cost.
func measureArtifact(ctx context.Context, b *bench, g *Group) error {
	curl, err := exec.LookPath("curl")
	if err != nil {
		g.Skipped = "curl is not installed"
		return nil
	}
	t := &transfers{curl: curl, bench: b}
	if err := t.prepare(ctx); err != nil {
		return err
	}
	defer t.close()
	const bare = "curl and a bare Go file server on the same disk"
	in := g.figure("in: PUT of an input", "MiB/s").against(bare).ratioAtLeast(0.5)
	careful := g.figure("  a file server with SHA-256 and fsync", "MiB/s").against(bare)
	out := g.figure("out: GET of an artifact", "MiB/s").against(bare).ratioAtLeast(0.5)
	fetched := g.figure("  machine started, input fetched", "MiB/s")
	kept := g.figure("  artifact kept, result reported", "MiB/s")
	made := g.figure("made: cp as a job, kept", "MiB/s").against("cp, and curl to the bare file server").ratioAtLeast(0.5)
	err = b.eachRound(ctx, func(int) error {
		put, get, err := t.throughFiles(ctx, t.files, true)
		if err != nil {
			return fmt.Errorf("the file server: %w", err)
		}
		carefulPut, _, err := t.throughFiles(ctx, t.carefulFiles, false)
		if err != nil {
			return fmt.Errorf("the careful file server: %w", err)
		}
		ours, err := t.throughDayfly(ctx)
		if err != nil {
			return err
		}
		byHand, err := t.madeByHand(ctx)
		if err != nil {
			return err
		}
		byJob, err := t.madeByJob(ctx)
		if err != nil {
			return err
		}
		in.add(t.rate(ours.put), t.rate(put))
		careful.add(t.rate(carefulPut), t.rate(put))
		out.add(t.rate(ours.get), t.rate(get))
		fetched.add(t.rate(ours.fetched))
		kept.add(t.rate(ours.kept))
		made.add(t.rate(byJob), t.rate(byHand))
		return nil
	})
	if err != nil {
		return err
	}
	g.note("%s MiB of random bytes; sizes and SHA-256 were checked", number(float64(b.artifact)/(1<<20)))
	return nil
}

// transfers is what the measurement works with.
type transfers struct {
	*bench
	curl                string
	dayfly              *service
	files, carefulFiles *service
	client              *dayfly.Client
	dir                 string
	source, sum         string // the large file and its SHA-256
}

func (t *transfers) prepare(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if t.dir, err = t.place("artifact"); err != nil {
		return err
	}
	t.source = filepath.Join(t.dir, "source")
	if t.sum, err = writeRandom(ctx, t.source, t.artifact); err != nil {
		return err
	}
	if t.files, err = t.serveFiles(ctx, false); err != nil {
		return err
	}
	if t.carefulFiles, err = t.serveFiles(ctx, true); err != nil {
		return err
	}
	if t.dayfly, err = t.serveDayfly(ctx); err != nil {
		return err
	}
	t.client, err = t.dayfly.client()
	return err
}

func (t *transfers) close() {
	for _, s := range []*service{t.files, t.carefulFiles, t.dayfly} {
		if s != nil {
			s.close()
		}
	}
	_ = os.RemoveAll(t.dir) // what is left goes with the workshop
}

// rate is the speed of a transfer in MiB per second.
func (t *transfers) rate(took time.Duration) float64 {
	return float64(t.artifact) / (1 << 20) / took.Seconds()
}

// writeRandom writes a file of random bytes, which nothing on the way can compress, and returns its SHA-256.
func writeRandom(ctx context.Context, name string, size int64) (sum string, err error) {
	file, err := os.Create(name)
	if err != nil {
		return "", fmt.Errorf("writing the large file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	source, digest := rand.NewChaCha8([32]byte{}), sha256.New()
	for left := size; left > 0; {
		n, err := io.CopyN(io.MultiWriter(file, digest), source, min(left, 16<<20))
		if err != nil {
			return "", fmt.Errorf("writing the large file: %w", err)
		}
		if left -= n; ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
	}
	// Without this the first round would compete with the disk for the file's own bytes.
	return hex.EncodeToString(digest.Sum(nil)), file.Sync()
}

// send PUTs a file with curl and returns how long that took.
func (t *transfers) send(ctx context.Context, file, url string, header map[string]string) (time.Duration, error) {
	args := []string{"-T", file}
	for name, value := range header {
		args = append(args, "-H", name+": "+value)
	}
	_, took, err := t.transfer(ctx, append(args, url)...)
	return took, err
}

// fetch GETs a file of the size of the large one with curl and returns how long that took.
func (t *transfers) fetch(ctx context.Context, url string) (time.Duration, error) {
	size, took, err := t.transfer(ctx, url)
	if err == nil && size != t.artifact {
		err = fmt.Errorf("curl received %d bytes and not %d", size, t.artifact)
	}
	return took, err
}

// transfer runs curl and returns how many bytes it received and how long it took.
func (t *transfers) transfer(ctx context.Context, args ...string) (received int64, took time.Duration, err error) {
	args = append([]string{"-q", "-sS", "-f", "--noproxy", "*", "-o", "/dev/null", "-w", "%{size_download} %{time_total}"}, args...)
	cmd := exec.CommandContext(ctx, t.curl, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("curl: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	size, seconds, _ := strings.Cut(string(answer), " ")
	received, err = strconv.ParseInt(size, 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("curl said %q: %w", answer, err)
	}
	total, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("curl said %q: %w", answer, err)
	}
	return received, time.Duration(total * float64(time.Second)), nil
}

// throughFiles sends the large file to a file server, and gets it back if asked to.
func (t *transfers) throughFiles(ctx context.Context, s *service, back bool) (put, get time.Duration, err error) {
	url := "http://" + s.address + "/files/large"
	defer os.Remove(filepath.Join(s.command.Dir, "large"))
	if put, err = t.send(ctx, t.source, url, nil); err != nil || !back {
		return put, 0, err
	}
	get, err = t.fetch(ctx, url)
	return put, get, err
}

// passage is how long each step of a file's way through a job took.
type passage struct{ put, fetched, kept, get time.Duration }

// throughDayfly sends the large file as the input of a job that gives it back as its artifact, and gets it back. The
// job renames it, because an input that is left as it was is no artifact.
func (t *transfers) throughDayfly(ctx context.Context) (*passage, error) {
	job, err := t.client.Submit(ctx, &dayfly.JobSpec{
		Command: []string{"/bin/mv", "large", "kept"}, Inputs: []dayfly.InputSpec{{Name: "large"}}, Outputs: []string{"kept"},
	}, nil)
	if err != nil {
		return nil, err
	}
	if len(job.Inputs) != 1 || job.Inputs[0].Upload == nil {
		return nil, fmt.Errorf("%s does not say how to upload its input", job.ID)
	}
	p := &passage{}
	upload := job.Inputs[0].Upload
	if p.put, err = t.send(ctx, t.source, t.absolute(upload.URL), upload.Headers); err != nil {
		return nil, err
	}
	if job, err = t.client.Start(ctx, job.ID); err != nil {
		return nil, err
	}
	if job, err = t.client.Wait(ctx, job.ID); err != nil {
		return nil, err
	}
	artifact, err := t.check(job)
	if err != nil {
		return nil, err
	}
	phases := job.Attempts[0].Phases
	if phases.Booting == nil || phases.Finishing == nil {
		return nil, fmt.Errorf("%s does not say how long its phases took", job.ID)
	}
	p.fetched, p.kept = fromMilliseconds(*phases.Booting), fromMilliseconds(*phases.Finishing)
	if p.get, err = t.fetch(ctx, t.absolute(artifact.DownloadURL)); err != nil {
		return nil, err
	}
	return p, t.remove(ctx, job)
}

// absolute returns the whole of a URL that may lack its host.
func (t *transfers) absolute(url string) string {
	if strings.HasPrefix(url, "/") {
		return "http://" + t.dayfly.address + url
	}
	return url
}

// check returns the one artifact of a job, which must be the large file.
func (t *transfers) check(job *dayfly.Job) (*dayfly.Artifact, error) {
	if err := succeeded(job); err != nil {
		return nil, err
	}
	if len(job.Artifacts) != 1 || job.Artifacts[0].Size != t.artifact || job.Artifacts[0].SHA256 != t.sum {
		return nil, fmt.Errorf("%s has not kept the %d bytes with SHA-256 %s: it has %+v", job.ID, t.artifact, t.sum, job.Artifacts)
	}
	return &job.Artifacts[0], nil
}

// madeByHand makes the file and sends it to the file server.
func (t *transfers) madeByHand(ctx context.Context) (time.Duration, error) {
	made := filepath.Join(t.dir, "made")
	defer os.Remove(made)
	defer os.Remove(filepath.Join(t.files.command.Dir, "made"))
	began := time.Now()
	if out, err := exec.CommandContext(ctx, "/bin/cp", t.source, made).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cp: %w: %s", err, out)
	}
	if _, err := t.send(ctx, made, "http://"+t.files.address+"/files/made", nil); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// madeByJob has a job make the file and keep it as an artifact.
func (t *transfers) madeByJob(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	job, err := t.client.Submit(ctx, &dayfly.JobSpec{Command: []string{"/bin/cp", t.source, "made"}, Outputs: []string{"made"}}, nil)
	if err != nil {
		return 0, err
	}
	if job, err = t.client.Wait(ctx, job.ID); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if _, err := t.check(job); err != nil {
		return 0, err
	}
	return took, t.remove(ctx, job)
}

// remove deletes a job and with it the file. That is possible only when its machine is gone, soon after its end.
func (t *transfers) remove(ctx context.Context, job *dayfly.Job) error {
	for began := time.Now(); ; {
		err := t.client.Delete(ctx, job.ID)
		if !errors.Is(err, fault.Conflict) || time.Since(began) > 10*time.Second {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}
