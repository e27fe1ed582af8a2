// Package dockertest gives tests a real container engine, which nobody else uses: a dockerd with its own socket, its own
// directories and its own network, and images that are made from scratch around a static busybox, because no registry can
// be relied upon.
//
// A package that uses it has this, so that nothing is left behind:
//
//	func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }
//
// The engine needs root, and the Debian packages docker.io, iptables, iproute2 and busybox-static. With DAYFLY_TEST_DOCKER_HOST set,
// tests use that engine and its network called bridge instead of starting one. [SharedPodman] is a Podman instead, which needs the
// packages podman and runc. [StartRegistry] is a registry of images on this computer, which needs the package docker-registry.
package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// hostVariable names an engine to use instead of starting one.
const hostVariable = "DAYFLY_TEST_DOCKER_HOST"

// patience is how long an engine may take to start, or to end.
const patience = time.Minute

// Engine is an engine that tests use.
type Engine struct {
	Host    string         // its URL
	Network string         // what containers are to be attached to
	Client  *client.Client // to look behind the back of what is tested

	dir    string // "" for an engine that somebody else has started
	bridge string // the interface that was made for it
	start  func(e *Engine) *exec.Cmd
	mu     sync.Mutex
	daemon *daemon // guarded by mu; nil while it does not run
	images map[string]bool
}

// daemon is a process that was started.
type daemon struct {
	process *os.Process
	ended   chan struct{}
}

// shared is what the tests of one process share. It is here because a test binary is one process, and an engine takes seconds
// to start.
type shared struct {
	docker, podman sharedEngine
	agent          sync.Once
	file           string
	built          error
	dir            string
}

// sharedEngine is an engine that is started when it is first asked for.
type sharedEngine struct {
	once   sync.Once
	engine *Engine
	err    error
}

// get returns the engine, which start makes.
func (s *sharedEngine) get(t testing.TB, start func() (*Engine, error)) *Engine {
	t.Helper()
	s.once.Do(func() { s.engine, s.err = start() })
	if s.err != nil {
		t.Fatalf("dockertest: %v", s.err)
	}
	return s.engine
}

// process returns the one shared of this process.
var process = sync.OnceValue(func() *shared { return &shared{} })

// Main runs a package's tests and then ends the engines that they have shared, if there are any. It returns the code to exit
// with.
func Main(m *testing.M) int {
	code := m.Run()
	s := process()
	for _, one := range []*sharedEngine{&s.docker, &s.podman} {
		if one.engine == nil {
			continue
		}
		if err := one.engine.close(); err != nil {
			fmt.Fprintf(os.Stderr, "dockertest: ending the engine: %v\n", err)
			code = max(code, 1)
		}
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
	return code
}

// Shared returns the engine that all tests of this process share, and starts it when it is first asked for.
func Shared(t testing.TB) *Engine {
	t.Helper()
	return process().docker.get(t, Open)
}

// Start returns an engine of the test's own, which it may kill, and which ends with it.
func Start(t testing.TB) *Engine {
	t.Helper()
	return own(t, start)
}

// own returns an engine that ends with the test.
func own(t testing.TB, start func() (*Engine, error)) *Engine {
	t.Helper()
	e, err := start()
	if err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	t.Cleanup(func() {
		if err := e.close(); err != nil {
			t.Errorf("dockertest: ending the engine: %v", err)
		}
	})
	return e
}

// Open returns an engine for a program that is no test; it calls Close.
func Open() (*Engine, error) {
	if host := os.Getenv(hostVariable); host != "" {
		return connect(host, "bridge")
	}
	return start()
}

// Close removes all containers, ends the engine and removes what it has kept. One that somebody else has started stays.
func (e *Engine) Close() error { return e.close() }

// connect returns the engine at a host.
func connect(host, network string) (*Engine, error) {
	c, err := client.New(client.WithHost(host))
	if err != nil {
		return nil, err
	}
	return &Engine{Host: host, Network: network, Client: c, images: map[string]bool{}}, nil
}

// start starts an engine with everything of its own.
func start() (*Engine, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("an engine needs root; run the tests as root, or set %s to the URL of an engine to use", hostVariable)
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		return nil, fmt.Errorf("dockerd is not installed; run scripts/setup, or: apt-get install docker.io iptables iproute2 busybox-static")
	}
	dir, err := os.MkdirTemp("", "dayfly-dockertest-")
	if err != nil {
		return nil, err
	}
	e, err := connect("unix://"+filepath.Join(dir, "docker.sock"), "bridge")
	if err != nil {
		return nil, err
	}
	e.dir, e.start = dir, (*Engine).dockerd
	if err := e.makeBridge(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	if err := e.launch(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// dockerd is the command of a Docker engine.
func (e *Engine) dockerd() *exec.Cmd {
	return exec.CommandContext(context.Background(), "dockerd", "--host", e.Host, "--data-root", filepath.Join(e.dir, "data"), "--exec-root", filepath.Join(e.dir, "exec"),
		"--pidfile", filepath.Join(e.dir, "pid"), "--bridge", e.bridge, "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--shutdown-timeout=1")
}

// launch starts the daemon and waits until it answers. Docker's gives up when its containerd has not begun within 15
// seconds, which nobody can set and a busy computer takes; so it is started again then.
func (e *Engine) launch() error {
	err := e.launchOnce()
	for range 3 {
		if err == nil || !strings.Contains(err.Error(), "timeout waiting for containerd to start") {
			return err
		}
		e.mu.Lock()
		e.daemon = nil
		e.mu.Unlock()
		if err := e.endContainerd(); err != nil {
			return err
		}
		if err := os.Truncate(filepath.Join(e.dir, "log"), 0); err != nil {
			return err
		}
		err = e.launchOnce()
	}
	return err
}

func (e *Engine) launchOnce() error {
	file, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := e.start(e)
	cmd.Stdout, cmd.Stderr = file, file
	d, err := spawn(cmd)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.daemon = d
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if _, err := e.Client.Ping(ctx, client.PingOptions{}); err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("the engine has ended at once; its log says:\n%s", e.tail())
		case <-ctx.Done():
			return fmt.Errorf("the engine does not answer; its log says:\n%s", e.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the end of the daemon's log.
func (e *Engine) tail() string {
	text, err := os.ReadFile(filepath.Join(e.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// makeBridge makes the interface of the engine's containers, with addresses that no other engine of these tests uses. It
// has to be there before the daemon: one that is told to have none removes docker0, and with it the network of the
// computer's own engine.
func (e *Engine) makeBridge() error {
	third, err := e.reserveBridge("dfdtest")
	if err != nil {
		return err
	}
	return errors.Join(ip("address", "add", fmt.Sprintf("10.213.%d.1/24", third), "dev", e.bridge), ip("link", "set", e.bridge, "up"))
}

// reserveBridge makes an interface that has no address yet, and returns a number that no other engine of this kind uses.
func (e *Engine) reserveBridge(prefix string) (number byte, err error) {
	for try := range 20 {
		number = byte(os.Getpid() + 17*try)
		name := prefix + strconv.Itoa(int(number))
		if err = ip("link", "add", name, "type", "bridge"); err == nil {
			e.bridge = name
			return number, nil
		} // otherwise another process of these tests has it
	}
	return 0, err
}

// ip runs the program of that name.
func ip(args ...string) error {
	text, err := exec.CommandContext(context.Background(), "ip", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("ip is not installed; run scripts/setup, or: apt-get install iproute2")
	}
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return nil
}

// Kill ends the daemon as a crash does, or politely. What runs in containers is then as the daemon leaves it.
func (e *Engine) Kill(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := e.end(signal); err != nil {
		t.Fatalf("dockertest: %v", err)
	}
}

// Restart starts the daemon again after a Kill.
func (e *Engine) Restart(t testing.TB) {
	t.Helper()
	if err := e.launch(); err != nil {
		t.Fatalf("dockertest: %v", err)
	}
}

func (e *Engine) end(signal syscall.Signal) error {
	e.mu.Lock()
	d := e.daemon
	e.daemon = nil
	e.mu.Unlock()
	if d == nil {
		return nil
	}
	if err := d.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended:
		return e.endContainerd()
	case <-time.After(patience):
		_ = d.process.Kill()
		<-d.ended
		return fmt.Errorf("the engine did not end by itself; its log says:\n%s", e.tail())
	}
}

// endContainerd waits until the daemon's own daemon has ended, which is told to when that has. The next one takes the
// process id in its file for a process that lives, even if nobody has collected it yet.
func (e *Engine) endContainerd() error {
	file := filepath.Join(e.dir, "exec", "containerd", "containerd.pid")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat")
		if _, rest, ok := strings.Cut(string(status), ") "); err != nil || ok && strings.HasPrefix(rest, "Z") {
			return os.Remove(file)
		}
		if time.Now().After(deadline) {
			return errors.New("containerd did not end with dockerd")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// close removes all containers, ends the engine and removes what it has kept.
func (e *Engine) close() error {
	if e.dir == "" {
		return e.Client.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	e.mu.Lock()
	dead := e.daemon == nil
	e.mu.Unlock()
	if dead { // only another one can end what it has left
		errs = append(errs, e.launch())
	}
	if list, err := e.Client.ContainerList(ctx, client.ContainerListOptions{All: true}); err == nil {
		for _, c := range list.Items {
			if _, err := e.Client.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
				errs = append(errs, err)
			}
		}
	}
	errs = append(errs, e.Client.Close(), e.end(syscall.SIGTERM), e.killLeft(), e.unmount())
	if e.bridge != "" {
		errs = append(errs, ip("link", "delete", e.bridge))
	}
	return errors.Join(append(errs, os.RemoveAll(e.dir))...)
}

// killLeft ends the monitors of containers that a daemon has forgotten because it was killed.
func (e *Engine) killLeft() error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(text, []byte(e.dir+"/")) {
			continue // it has ended, or is somebody else's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Image makes an image from scratch that holds a busybox with the usual programs in /bin, and returns its name. Changes
// are instructions as in a Dockerfile: "ENTRYPOINT [\"/bin/echo\"]", "USER 1000", "WORKDIR /app". An image that the engine
// has is not made again.
func (e *Engine) Image(t testing.TB, name string, changes ...string) string {
	t.Helper()
	if err := e.MakeImage(name, changes...); err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	return name
}

// MakeImage is Image for a program that is no test.
func (e *Engine) MakeImage(name string, changes ...string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.images[name] {
		return nil
	}
	root, err := busyboxRoot()
	if err == nil {
		err = e.importImage(name, root, changes)
	}
	e.images[name] = err == nil
	return err
}

// ImageOf makes an image from scratch of files alone, each with the mode 0755, and returns its name.
func (e *Engine) ImageOf(t testing.TB, name string, files map[string][]byte, changes ...string) string {
	t.Helper()
	if err := e.MakeImageOf(name, files, changes...); err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	return name
}

// MakeImageOf is ImageOf for a program that is no test.
func (e *Engine) MakeImageOf(name string, files map[string][]byte, changes ...string) error {
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	for path, data := range files {
		if err := writeFile(w, path, data); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return e.importImage(name, root.Bytes(), changes)
}

func (e *Engine) importImage(name string, root []byte, changes []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := e.Client.ImageImport(ctx, client.ImageImportSource{Source: bytes.NewReader(root), SourceName: "-"}, name,
		client.ImageImportOptions{Changes: append([]string{"ENV PATH=/bin"}, changes...)})
	if err == nil {
		var text []byte
		text, err = io.ReadAll(answer)
		answer.Close()
		if err == nil && bytes.Contains(text, []byte("errorDetail")) {
			err = errors.New(string(text))
		}
	}
	if err != nil {
		return fmt.Errorf("making the image %s: %w", name, err)
	}
	return nil
}

// busyboxRoot is the file system of a small image, as an archive.
func busyboxRoot() ([]byte, error) {
	var busybox []byte
	for _, file := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if data, err := os.ReadFile(file); err == nil {
			busybox = data
			break
		}
	}
	if busybox == nil {
		return nil, errors.New("there is no static busybox; run scripts/setup, or: apt-get install busybox-static")
	}
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	if err := writeFile(w, "bin/busybox", busybox); err != nil {
		return nil, err
	}
	for _, program := range strings.Fields("sh echo cat sleep wget ls env id true false nc kill ps head tail dd mkdir touch rm cp mv ln test date grep sed pwd chmod ulimit trap wc sort tr sha256sum stat df mount find xargs seq yes") {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + program, Linkname: "busybox", Mode: 0o777}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000:worker:/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\nworker:x:1000:\n",
	} {
		if err := writeFile(w, name, []byte(text)); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777}); err != nil {
		return nil, err
	}
	return root.Bytes(), w.Close()
}

func writeFile(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// Agent returns the path of the agent's program, static as images need it. It is built once for all tests of this process.
func Agent(t testing.TB) string {
	t.Helper()
	s := process()
	s.agent.Do(s.buildAgent)
	if s.built != nil {
		t.Fatalf("dockertest: %v", s.built)
	}
	return s.file
}

// buildAgent builds the agent's program in a directory that the whole process shares.
func (s *shared) buildAgent() {
	if s.dir, s.built = os.MkdirTemp("", "dayfly-agent-"); s.built != nil {
		return
	}
	s.file = filepath.Join(s.dir, "dayfly-agent")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", s.file, "github.com/dayfly-run/dayfly/cmd/dayfly-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		s.built = fmt.Errorf("building the agent: %w\n%s", err, text)
	}
}
