package dockertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// podmanConfig makes Podman do without systemd, with cgroups of either version, and with what it may do in a container itself:
// it would raise limits that it finds otherwise. Its locks are files, because those in memory would be every other Podman's, too.
const podmanConfig = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
lock_type = "file"

[network]
network_backend = "cni"

[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
`

// podmanNetwork is the network called bridge of a Podman: an interface whose address is not there before its first container,
// as with any Podman, and no firewall, which belongs to the computer.
const podmanNetwork = `{"cniVersion": "0.4.0", "name": "podman", "plugins": [{"type": "bridge", "bridge": %q, "isGateway": true,
	"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.214.%[3]d.0/24", "gateway": "10.214.%[3]d.1"}]]}}]}`

// SharedPodman returns the Podman that all tests of this process share, and starts it when it is first asked for.
func SharedPodman(t testing.TB) *Engine {
	t.Helper()
	return process().podman.get(t, startPodman)
}

// StartPodman returns a Podman of the test's own, which it may kill, and which ends with it.
func StartPodman(t testing.TB) *Engine {
	t.Helper()
	return own(t, startPodman)
}

// startPodman starts a Podman with everything of its own, so that neither the computer's own is disturbed nor another test's.
func startPodman() (*Engine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("Podman needs root here; run the tests as root")
	}
	for _, program := range []string{"podman", "runc"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is not installed; run scripts/setup, or: apt-get install --no-install-recommends podman runc busybox-static", program)
		}
	}
	dir, err := os.MkdirTemp(shortTemp(), "dfpm-")
	if err != nil {
		return nil, err
	}
	e, err := connect("unix://"+filepath.Join(dir, "podman.sock"), "bridge")
	if err != nil {
		return nil, err
	}
	e.dir, e.start = dir, (*Engine).podman
	if err := errors.Join(e.configurePodman(), e.launch()); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// shortTemp is the directory for temporary files, or one with a shorter name: Podman takes none for what it keeps while it
// runs whose name has more than 50 characters.
func shortTemp() string {
	const longest = 50 - len("/dfpm-4294967295/run")
	if dir := os.TempDir(); len(dir) <= longest {
		return dir
	}
	return "/tmp"
}

// configurePodman writes what a Podman reads when it starts.
func (e *Engine) configurePodman() error {
	number, err := e.reserveBridge("dfptest")
	if err != nil {
		return err
	}
	networks := filepath.Join(e.dir, "networks")
	return errors.Join(
		os.WriteFile(filepath.Join(e.dir, "containers.conf"), []byte(podmanConfig), 0o600),
		os.Mkdir(networks, 0o700),
		os.WriteFile(filepath.Join(networks, "podman.conflist"), fmt.Appendf(nil, podmanNetwork, e.bridge, filepath.Join(e.dir, "addresses"), number), 0o600),
	)
}

// podman is the command of a Podman that serves Docker's API. What it starts for a container outlives it.
func (e *Engine) podman() *exec.Cmd {
	at := func(name string) string { return filepath.Join(e.dir, name) }
	cmd := exec.CommandContext(context.Background(), "podman", "--root", at("root"), "--runroot", at("run"), "--tmpdir", at("tmp"),
		"--network-config-dir", at("networks"), "--storage-driver", "overlay", "system", "service", "--time", "0", e.Host)
	// The monitors of its containers leave files where it was started.
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+at("containers.conf"), "TMPDIR="+e.dir) // where it forgets archives
	return cmd
}
