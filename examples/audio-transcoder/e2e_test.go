package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/blob/s3blob/s3test"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/server"
)

// stage is what is real around a service: the programs, object storage, a Dayfly server, and sound.
type stage struct {
	dir     string
	storage *s3test.Service
	gate    *gate
	dayfly  *dayfly.Client
	env     []string // what a service needs to find all that
	wav     []byte
}

// newStage builds the programs and starts everything but the service. host is an address of this computer that workers
// reach; settings are put into the Dayfly server's configuration.
func newStage(t *testing.T, host, settings string) *stage {
	t.Helper()
	for _, tool := range []string{"curl", "jq", "ffmpeg", "ffprobe"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the worker needs %s; run make setup: %v", tool, err)
		}
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "github.com/dayfly-run/dayfly/cmd/dayfly",
		"github.com/dayfly-run/dayfly/cmd/dayfly-agent", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the agent must run in any image
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	st := &stage{dir: dir, storage: s3test.Start(t, host)}
	st.gate = newGate(t, host, st.storage.URL)
	owner := st.serveDayfly(t, settings)
	var err error
	if st.dayfly, err = dayfly.NewClient(owner.URL, &dayfly.ClientOptions{Token: owner.Token}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.awaitNoMachines(t) })
	st.env = []string{
		"PATH=" + os.Getenv("PATH"), "LISTEN=" + net.JoinHostPort(host, "0"), "ALLOW_OPEN=true",
		"AWS_ACCESS_KEY_ID=" + st.storage.AccessKey, "AWS_SECRET_ACCESS_KEY=" + st.storage.SecretKey,
		"S3_BUCKET_NAME=" + st.storage.Bucket, "S3_ENDPOINT_URL=" + st.gate.url,
		"DAYFLY_URL=" + owner.URL, "DAYFLY_TOKEN=" + owner.Token, "MAX_ATTEMPTS=1",
	}
	sound := exec.CommandContext(t.Context(), "ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "sine=frequency=440:duration=2", "-f", "wav", dir+"/sound.wav")
	if out, err := sound.CombinedOutput(); err != nil {
		t.Fatalf("making a WAV: %v\n%s", err, out)
	}
	if st.wav, err = os.ReadFile(dir + "/sound.wav"); err != nil {
		t.Fatal(err)
	}
	return st
}

// serveDayfly runs a Dayfly server until the test ends.
func (st *stage) serveDayfly(t *testing.T, settings string) *server.Owner {
	t.Helper()
	data, config := filepath.Join(st.dir, "data"), filepath.Join(st.dir, "dayfly.toml")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, exec.Command(filepath.Join(st.dir, "dayfly"), "serve", "--config", config,
		"--listen", "127.0.0.1:0", "--data-dir", data), os.Environ())
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if owner, err := server.FindOwner(data); err == nil && owner.URL != "" {
			return owner
		}
	}
	t.Fatalf("the Dayfly server is not up after 20s:\n%s", p.output())
	return nil
}

// awaitNoMachines waits until every machine is gone, so that nothing of them is in the way of what ends after this.
func (st *stage) awaitNoMachines(t *testing.T) {
	t.Helper()
	left := 0
	for deadline := time.Now().Add(ending); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		left = 0
		for _, err := range st.dayfly.Machines(context.WithoutCancel(t.Context()), false) {
			if left++; err != nil {
				t.Error(err)
				return
			}
		}
		if left == 0 {
			return
		}
	}
	t.Errorf("%d machines are still there after %s", left, ending)
}

// program is one that runs until the test ends it.
type program struct {
	cmd    *exec.Cmd
	mu     sync.Mutex
	text   bytes.Buffer
	waited chan struct{}
}

func startProgram(t *testing.T, cmd *exec.Cmd, env []string) *program {
	t.Helper()
	p := &program{cmd: cmd, waited: make(chan struct{})}
	cmd.Env, cmd.Stderr = env, p
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // killed or interrupted; what it printed is shown when the test has failed
		close(p.waited)
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(cmd.Path), p.output())
		}
	})
	return p
}

// stop ends the program and returns when it is gone.
func (p *program) stop(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may be gone already
	<-p.waited
}

// Write keeps what the program prints.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// serve runs a service with its database in a file of the stage, and returns its URL.
func (st *stage) serve(t *testing.T, database string, env ...string) (*program, string) {
	t.Helper()
	all := append(append(slices.Clone(st.env), "DB_URL="+filepath.Join(st.dir, database)), env...)
	p := startProgram(t, exec.Command(filepath.Join(st.dir, "audio-transcoder")), all)
	serving := regexp.MustCompile(`msg=serving url=(\S+)`)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		if m := serving.FindStringSubmatch(p.output()); m != nil {
			return p, m[1]
		}
	}
	t.Fatalf("the service is not up after 20s:\n%s", p.output())
	return nil, ""
}

// gate stands in front of object storage and can hold back sources, so that a run lasts as long as a test needs it to.
type gate struct {
	url    string
	mu     sync.Mutex
	held   map[string]chan struct{} // by path
	waited map[string]chan struct{}
}

func newGate(t *testing.T, host, storage string) *gate {
	t.Helper()
	target, err := url.Parse(storage)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		r.Out.Host = r.In.Host // it is signed
	}}
	g := &gate{held: map[string]chan struct{}{}, waited: map[string]chan struct{}{}}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	g.url = "http://" + listener.Addr().String()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		held, waited := g.held[r.URL.Path], g.waited[r.URL.Path]
		g.mu.Unlock()
		if held != nil && r.Method == http.MethodGet {
			select {
			case waited <- struct{}{}:
			default:
			}
			select {
			case <-held:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}), ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(listener) }() // until it is closed
	t.Cleanup(func() { _ = s.Close() })
	return g
}

// hold keeps the downloads of a path waiting. arrived receives when one does.
func (g *gate) hold(path string) (arrived <-chan struct{}, release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	held, waited := make(chan struct{}), make(chan struct{}, 1)
	g.held[path], g.waited[path] = held, waited
	return waited, func() { close(held) }
}

func receive(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("%s: not after a minute", what)
	}
}

// upload creates a job and stores its source, as a client does.
func upload(t *testing.T, base string, wav []byte) string {
	t.Helper()
	status, body, _ := call(t, "POST", base+"/jobs/", mp3)
	data := dig(parse(t, body), "data")
	id, _ := dig(data, "_id").(string)
	target, _ := dig(data, "source", "upload_url").(string)
	if status != 200 || id == "" {
		t.Fatalf("create: %d %s", status, body)
	}
	if status, body, _ := call(t, "PUT", target, string(wav), "Content-Type", "audio/wav", "Content-Disposition", "attachment;filename="+id+".wav"); status != 200 {
		t.Fatalf("upload: %d %s", status, body)
	}
	return id
}

func start(t *testing.T, base, id string) {
	t.Helper()
	if status, body, _ := call(t, "POST", base+"/jobs/"+id+"/status/started/?machine_size=shared-cpu-2x", ""); status != 200 || dig(parse(t, body), "data", "status") == "created" {
		t.Fatalf("start: %d %s", status, body)
	}
}

// checkMP3 downloads a completed job's result and checks what it is.
func checkMP3(t *testing.T, data any) {
	t.Helper()
	from, _ := dig(data, "transcode", "download_url").(string)
	resp, err := http.Get(from)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	file := filepath.Join(t.TempDir(), "result.mp3")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ffprobe", "-v", "error", "-show_entries", "stream=codec_name,sample_rate,bit_rate", "-of", "compact=nk=1:p=0", file).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "mp3|44100|320000" {
		t.Errorf("got a file that is %q (%v), want an MP3 of 44100 Hz and 320 kbit/s", got, err)
	}
	id, _ := dig(data, "_id").(string)
	if got := resp.Header.Get("Content-Disposition"); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "audio/mpeg" || got != "attachment;filename="+id+".mp3" {
		t.Errorf("got %d %v, want it as it was uploaded", resp.StatusCode, resp.Header)
	}
}

const ending = 2 * time.Minute // a job's, on a computer that is very busy

func TestEndToEndOnLocalMachines(t *testing.T) {
	t.Parallel()
	st := newStage(t, "127.0.0.1", "")
	_, base := st.serve(t, "jobs.db")
	t.Run("AWAVBecomesAnMP3", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, st.wav)
		start(t, base, id)
		start(t, base, id)
		data := await(t, base, id, "completed", ending)
		checkMP3(t, data)
		st.run(t, id) // one, although it was started twice
	})
	t.Run("AnUploadWithOtherHeadersIsRefused", func(t *testing.T) {
		t.Parallel()
		_, body, _ := call(t, "POST", base+"/jobs/", mp3)
		data := dig(parse(t, body), "data")
		id, target := dig(data, "_id").(string), dig(data, "source", "upload_url").(string)
		for _, headers := range [][]string{
			{"Content-Type", "audio/mpeg", "Content-Disposition", "attachment;filename=" + id + ".wav"},
			{"Content-Type", "audio/wav", "Content-Disposition", "attachment; filename=" + id + ".wav"},
			{"Content-Type", "audio/wav"},
		} {
			if status, body, _ := call(t, "PUT", target, string(st.wav), headers...); status != 403 {
				t.Errorf("with %v: got %d %s, want 403", headers, status, body)
			}
		}
		if status, body, _ := call(t, "POST", base+"/jobs/"+id+"/status/started/", ""); status != 409 {
			t.Errorf("start: got %d %s, want 409", status, body)
		}
	})
	t.Run("ASourceThatIsNoWAVFailsTheJob", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, []byte("ffconcat version 1.0\nfile /etc/passwd\n"))
		start(t, base, id)
		why, _ := dig(await(t, base, id, "failed", ending), "error").(string)
		if !strings.Contains(why, "The source cannot be transcoded: ") || !strings.Contains(why, "Invalid data") {
			t.Errorf("got error %q, want ffmpeg's reason", why)
		}
	})
	t.Run("AWorkerThatIsKilledFailsTheJob", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, st.wav)
		arrived, release := st.gate.hold("/" + st.storage.Bucket + "/sources/" + id)
		defer release()
		start(t, base, id)
		receive(t, "the worker fetches the source", arrived)
		killWorker(t, id)
		if why, _ := dig(await(t, base, id, "failed", ending), "error").(string); !strings.Contains(why, "SIGKILL") {
			t.Errorf("got error %q, want the signal named", why)
		}
	})
	t.Run("AJobOutlivesAServiceThatIsKilled", func(t *testing.T) {
		t.Parallel()
		killed, base := st.serve(t, "killed.db")
		id := upload(t, base, st.wav)
		arrived, release := st.gate.hold("/" + st.storage.Bucket + "/sources/" + id)
		start(t, base, id)
		receive(t, "the worker fetches the source", arrived)
		killed.stop(syscall.SIGKILL)
		_, again := st.serve(t, "killed.db", "LISTEN="+strings.TrimPrefix(base, "http://"))
		release()
		checkMP3(t, await(t, again, id, "completed", ending))
	})
	t.Run("AWorkerThatFindsNoServiceStillCompletesTheJob", func(t *testing.T) {
		t.Parallel()
		killed, base := st.serve(t, "away.db", "WORKER_COMMAND=sh "+deaf(t))
		id := upload(t, base, st.wav)
		arrived, release := st.gate.hold("/" + st.storage.Bucket + "/sources/" + id)
		start(t, base, id)
		receive(t, "the worker fetches the source", arrived)
		killed.stop(syscall.SIGKILL)
		release()
		st.awaitRun(t, id, dayfly.Succeeded)
		_, again := st.serve(t, "away.db")
		checkMP3(t, await(t, again, id, "completed", ending))
	})
	t.Run("AWorkerThatChecksNothingCompletesOnlyWhatIsThere", func(t *testing.T) {
		t.Parallel()
		script, err := filepath.Abs("testdata/careless.sh")
		if err != nil {
			t.Fatal(err)
		}
		_, base := st.serve(t, "careless.db", "WORKER_COMMAND=sh "+script)
		good, bad := upload(t, base, st.wav), upload(t, base, []byte("no sound"))
		start(t, base, good)
		start(t, base, bad)
		checkMP3(t, await(t, base, good, "completed", ending))
		if why := dig(await(t, base, bad, "failed", ending), "error"); why != "The worker ended without storing a result." {
			t.Errorf("got error %v, want the missing result named", why)
		}
	})
	t.Run("ARunningJobIsDeletedWithEverything", func(t *testing.T) {
		t.Parallel()
		_, base := st.serve(t, "deleted.db")
		done, running := upload(t, base, st.wav), upload(t, base, st.wav)
		arrived, release := st.gate.hold("/" + st.storage.Bucket + "/sources/" + running)
		defer release()
		start(t, base, done)
		start(t, base, running)
		await(t, base, done, "completed", ending)
		receive(t, "the worker fetches the source", arrived)
		if status, body, _ := call(t, "DELETE", base+"/jobs/", ""); status != 200 || body != "null" {
			t.Fatalf("got %d %s, want 200 null", status, body)
		}
		if status, body, _ := call(t, "GET", base+"/jobs/", ""); status != 200 || body != `{"data":[]}` {
			t.Errorf("got %d %s, want no jobs", status, body)
		}
		for _, id := range []string{done, running} {
			if left, err := filepath.Glob(filepath.Join(st.storage.Dir, "*", id+"*")); err != nil || len(left) > 0 {
				t.Errorf("got %v left in storage, want nothing", left)
			}
			for j, err := range st.dayfly.Jobs(t.Context(), &dayfly.Query{Labels: map[string]string{label: id}}) {
				if err != nil || !j.State.Terminal() {
					t.Errorf("got a run that is %v, %v; want it ended", j, err)
				}
			}
		}
	})
	t.Run("AStartWithoutStorageOrDayflyIsRefusedAndMayBeRepeated", func(t *testing.T) {
		t.Parallel()
		nobody := "http://" + unusedAddress(t)
		p, base := st.serve(t, "down.db")
		id := upload(t, base, st.wav)
		p.stop(syscall.SIGTERM)
		for _, env := range []string{"S3_ENDPOINT_URL=" + nobody, "DAYFLY_URL=" + nobody} {
			p, base := st.serve(t, "down.db", env)
			if status, body, _ := call(t, "POST", base+"/jobs/"+id+"/status/started/", ""); status != 503 || !strings.Contains(body, "later") {
				t.Errorf("with %s: got %d %s, want 503", env, status, body)
			}
			p.stop(syscall.SIGTERM)
		}
		_, base = st.serve(t, "down.db")
		start(t, base, id)
		checkMP3(t, await(t, base, id, "completed", ending))
	})
}

// run returns Dayfly's id of the one run of a job.
func (st *stage) run(t *testing.T, id string) string {
	t.Helper()
	var runs []string
	for j, err := range st.dayfly.Jobs(t.Context(), &dayfly.Query{Labels: map[string]string{label: id}}) {
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, j.ID)
	}
	if len(runs) != 1 {
		t.Fatalf("job %s has the runs %v, want one", id, runs)
	}
	return runs[0]
}

// awaitRun waits until Dayfly says that the run of a job has ended in a state.
func (st *stage) awaitRun(t *testing.T, id string, want dayfly.State) *dayfly.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ending)
	defer cancel()
	j, err := st.dayfly.Wait(ctx, st.run(t, id))
	if err != nil || j.State != want {
		t.Fatalf("the run ended as %+v, %v; want %s", j, err, want)
	}
	return j
}

// deaf returns the worker's script without its last call, which is what is left of it when nobody answers that.
func deaf(t *testing.T) string {
	t.Helper()
	text, _, ok := strings.Cut(workerScript, "# The service also looks")
	if !ok {
		t.Fatal("the worker's script has changed: its last call is not where it was")
	}
	script := filepath.Join(t.TempDir(), "deaf.sh")
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return script
}

// killWorker kills the processes of a job's worker, which are those with its id in their environment.
func killWorker(t *testing.T, id string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, file := range files {
		environment, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environment, []byte("JOB_ID="+id)) {
			continue // it is another's, or gone
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("there is no worker to kill")
	}
}

func unusedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestAServiceThatCannotUseItsBucketSaysWhy(t *testing.T) {
	t.Parallel()
	storage := s3test.Start(t, "")
	for say, c := range map[string]struct{ bucket, secret string }{
		"":                              {storage.Bucket, storage.SecretKey},
		"there is no bucket another at": {"another", storage.SecretKey},
		"the credentials must permit":   {storage.Bucket, "wrong"},
	} {
		b, err := openBucket(storage.URL, "us-east-1", c.bucket, storage.AccessKey, c.secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.check(t.Context()); (err == nil) != (say == "") || err != nil && (fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), say)) {
			t.Errorf("of bucket %s with secret %s: got %v, want it to say %q", c.bucket, c.secret, err, say)
		}
	}
}
