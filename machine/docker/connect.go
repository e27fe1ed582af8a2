package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly/fault"
)

// maxAnswer is the largest answer that is read of an engine, in bytes. The largest that is due is the list of a few
// thousand containers.
const maxAnswer = 16 << 20

// connect returns the engine. Nothing is sent to it.
func (p *Provider) connect() (*engine, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.engine != nil {
		return p.engine, nil
	}
	host := cmp.Or(p.options.Host, os.Getenv("DOCKER_HOST"))
	hosts := p.options.Hosts
	if hosts == nil {
		hosts = Sockets()
	}
	if host == "" {
		for _, candidate := range hosts {
			file, isFile := strings.CutPrefix(candidate, "unix://")
			if _, err := os.Stat(file); !isFile || err == nil {
				host = candidate
				break
			}
		}
	}
	if host == "" {
		return nil, fault.Say(fault.Unavailable, "there is no Docker or Podman engine here: none of %s exists; "+
			"start one, or say where it is with providers.docker.host or DOCKER_HOST", strings.Join(hosts, ", "))
	}
	scheme, _, _ := strings.Cut(host, "://")
	if scheme == "ssh" {
		return nil, fault.Say(fault.Unsupported, "the engine %s cannot be reached by itself; bring its socket here with: "+
			"ssh -NL /tmp/engine.sock:/var/run/docker.sock HOST, and set providers.docker.host to unix:///tmp/engine.sock", host)
	}
	options := []client.Opt{
		client.WithHTTPClient(&http.Client{Transport: &http.Transport{
			MaxIdleConns: 64, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DisableCompression: true,
		}, CheckRedirect: client.CheckRedirect}),
		client.WithHost(host), client.WithUserAgent("dayfly"),
		client.WithHTTPResponseHook(bound),
	}
	if dir := p.options.TLS; dir == "" {
		options = append(options, client.WithScheme("http"))
	} else {
		options = append(options, client.WithTLSClientConfig(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")))
	}
	c, err := client.New(options...)
	if err != nil {
		return nil, fault.Say(fault.Invalid, "the engine %q cannot be used: %v; providers.docker.host is a URL such as unix:///var/run/docker.sock", host, err)
	}
	p.engine = &engine{Client: c, host: host}
	return p.engine, nil
}

// Sockets returns the URLs of the usual places of an engine's socket, best first, whether there is one or not.
func Sockets() []string {
	files := []string{"/var/run/docker.sock"}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime != "" {
		files = append(files, filepath.Join(runtime, "docker.sock"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker/run/docker.sock"))
	}
	files = append(files, "/run/podman/podman.sock")
	if runtime != "" {
		files = append(files, filepath.Join(runtime, "podman/podman.sock"))
	}
	for i, file := range files {
		files[i] = "unix://" + file
	}
	return files
}

// bound keeps an answer from being read without end. Streams and archives are bounded by who reads them.
func bound(r *http.Response) {
	switch path.Base(r.Request.URL.Path) {
	case "events", "logs", "archive", "create", "attach", "start":
		if !strings.HasSuffix(r.Request.URL.Path, "/containers/create") {
			return
		}
	}
	r.Body = &boundedBody{ReadCloser: r.Body, left: maxAnswer}
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

var errTooLong = fmt.Errorf("its answer has more than %d bytes", maxAnswer)

// Read implements io.Reader.
func (b *boundedBody) Read(into []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(into[:min(int64(len(into)), b.left)])
	b.left -= int64(n)
	return n, err
}

// canceled is the error of a call whose context has ended.
func canceled(ctx context.Context) error {
	return fmt.Errorf("docker: %w: %w", fault.Canceled, context.Cause(ctx))
}

// failed makes of what the engine answered, or did not, an error with a kind and a sentence. doing is what was asked of
// it: "start the container m-1". Whatever is not a clear refusal is fault.Unavailable: it may have been done.
func (p *Provider) failed(ctx context.Context, e *engine, doing string, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	text := plain(err)
	switch {
	case client.IsErrConnectionFailed(err), isDial(err):
		return unreachable(e.host, err)
	case errdefs.IsInvalidArgument(err):
		return fault.Say(fault.Invalid, "the engine refuses to %s: %s", doing, text)
	case errdefs.IsNotFound(err):
		return fault.Say(fault.NotFound, "the engine cannot %s: %s", doing, text)
	case errdefs.IsConflict(err):
		return fault.Say(fault.Conflict, "the engine cannot %s: %s", doing, text)
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		return fault.Say(fault.Denied, "the engine at %s does not let this user %s: %s", e.host, doing, text)
	case errdefs.IsResourceExhausted(err):
		return fault.Say(fault.Exhausted, "the engine at %s has no room to %s now: %s", e.host, doing, text)
	case errdefs.IsNotImplemented(err):
		return fault.Say(fault.Unsupported, "the engine at %s cannot %s: %s", e.host, doing, text)
	}
	return fault.Say(fault.Unavailable, "the engine at %s did not %s: %s", e.host, doing, text)
}

// isGone reports whether the engine says that there is no such container. Podman may find that out only when it has begun to
// answer, and then calls it a failure of its own.
func isGone(err error) bool {
	return errdefs.IsNotFound(err) || err != nil && strings.Contains(strings.ToLower(err.Error()), "no such container")
}

// isTaken reports whether the engine says that the name is another container's. To Podman before 4.4 that is a failure of
// its own.
func isTaken(err error) bool {
	return errdefs.IsConflict(err) || err != nil && strings.Contains(strings.ToLower(err.Error()), "name is already in use")
}

// isDial reports whether no connection was made.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// unreachable says that nobody answers, and what to do about it.
func unreachable(host string, err error) error {
	file, isFile := strings.CutPrefix(host, "unix://")
	if !isFile {
		return fault.Say(fault.Unavailable, "no Docker or Podman engine answers at %s (%s); start it, or correct providers.docker.host or DOCKER_HOST", host, plain(err))
	}
	if errors.Is(err, os.ErrPermission) || strings.Contains(err.Error(), "permission denied") {
		return fault.Say(fault.Denied, "the socket %s of the engine is not for this user; add the user to its group (often: docker), "+
			"use a rootless engine, or set providers.docker.host or DOCKER_HOST to another one", file)
	}
	if _, missing := os.Stat(file); missing != nil {
		return fault.Say(fault.Unavailable, "there is no Docker or Podman engine at %s: the socket %s does not exist; start the engine "+
			"(often: systemctl start docker), or set providers.docker.host or DOCKER_HOST to where it is", host, file)
	}
	return fault.Say(fault.Unavailable, "no Docker or Podman engine answers at %s (%s); start it (often: systemctl start docker), "+
		"or set providers.docker.host or DOCKER_HOST to where it is", host, plain(err))
}

// plain is the text of an error on one line, bounded, without what the client puts before what the engine said.
func plain(err error) string {
	if call, ok := errors.AsType[*url.Error](err); ok && !errors.Is(call.Err, context.Canceled) {
		err = call.Err // its own text tells which request it was, in full
	}
	text := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "Error response from daemon: ")), " ")
	text = strings.TrimPrefix(text, "error during connect: ")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return strings.TrimRight(text, ".")
}
