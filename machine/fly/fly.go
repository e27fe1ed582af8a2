package fly

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// The defaults of [Options].
const (
	DefaultURL   = "https://api.machines.dev"
	DefaultAgent = "/usr/local/bin/dayfly-agent"
)

// Options are the details of a provider; nil means all defaults.
type Options struct {
	// URL is the base URL of the Machines API. Default: DefaultURL. Inside Fly's private network it is
	// http://_api.internal:4280, and any Dayfly server may speak the API too.
	URL string
	// Image is what a Spec that names no image gets. Default: such a Spec is refused.
	Image string
	// Region is where a Spec that names none is made, in the form of machine.Spec.Region. Default: Fly decides.
	Region string
	// Size is what a Spec whose Size is zero gets. Default: shared-cpu-1x.
	Size machine.Size
	// Agent is the agent's path in images that have it. Default: DefaultAgent.
	Agent string
	// Rate is how many requests of one kind may be made in a second, as the package comment says. Default: 1, which is
	// what Fly allows. Below 0: as many as there are, for a server that does not count.
	Rate float64
	// Token is asked for the token of each request, so that a new one counts at once. Its error is fault.Denied, and its
	// text is shown. Default: the one that New was given.
	Token func() (string, error)
	// Version is shown to Fly in the User-Agent. Default: none is.
	Version string
	// Transport carries the requests. Default: one of the provider's own, which obeys the proxies of the environment.
	Transport http.RoundTripper
}

// Provider makes machines in one app. It is safe for concurrent use, and remembers nothing that it could not do without.
type Provider struct {
	client  *client
	options Options

	began time.Time

	mu    sync.Mutex
	fresh map[string]time.Time // when each machine was made that no read has shown yet
	shown map[string]bool      // what was shown while a machine of the process before might still be settling
}

var (
	_ machine.Provider  = (*Provider)(nil)
	_ machine.Execer    = (*Provider)(nil)
	_ machine.Signaler  = (*Provider)(nil)
	_ machine.Suspender = (*Provider)(nil)
	_ machine.Gateway   = (*Provider)(nil)
)

// New returns the provider of an app. The token has to be one that may create and destroy the app's machines; it is in
// no error and in nothing that is shown. An app or token that is "" is what the environment's FLY_APP_NAME or FLY_API_TOKEN says: a
// program that runs at Fly finds its own app there, and the token if it was made a secret of that name. New does no I/O: what is
// wrong with app, token or URL is the error of the first call.
func New(app, token string, o *Options) *Provider {
	if o == nil {
		o = &Options{}
	}
	app = cmp.Or(app, os.Getenv("FLY_APP_NAME"))
	if o.Token == nil {
		token = cmp.Or(token, os.Getenv("FLY_API_TOKEN"))
	}
	p := &Provider{options: *o, began: time.Now(), fresh: make(map[string]time.Time), shown: make(map[string]bool)}
	p.options.URL = strings.TrimRight(cmp.Or(o.URL, DefaultURL), "/")
	p.options.Agent = cmp.Or(o.Agent, DefaultAgent)
	transport := o.Transport
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxIdleConnsPerHost = 16
		transport = own
	}
	source := o.Token
	if source == nil {
		token = strings.TrimSpace(token)
		source = func() (string, error) { return token, nil }
	}
	p.client = &client{
		base: p.options.URL, app: app, token: source, agent: strings.TrimSuffix("dayfly/"+o.Version, "/"),
		rate: cmp.Or(o.Rate, 1), pace: &pace{},
		web: &http.Client{
			Transport: transport,
			// A redirect would take the token to wherever it points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	return p
}

// settling is for how long after a create Fly may say that it does not know the machine.
const settling = 30 * time.Second

// maxFresh is how many machines are remembered as made just now. Beyond that a 404 is believed at once, which the
// engine's own patience with absent machines makes good.
const maxFresh = 4096

// remember notes that a machine was made.
func (p *Provider) remember(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fresh) >= maxFresh {
		for id, made := range p.fresh {
			if time.Since(made) > settling {
				delete(p.fresh, id)
			}
		}
	}
	if len(p.fresh) < maxFresh {
		p.fresh[id] = time.Now()
	}
}

// seen notes that Fly knows the machine, so that from now on it is gone when Fly does not.
func (p *Provider) seen(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.fresh, id)
	if time.Since(p.began) > settling {
		p.shown = nil
	} else if len(p.shown) < maxFresh {
		p.shown[id] = true
	}
}

// inherited reports whether a machine that Fly does not know may have been made a moment ago by the process before this
// one, which cannot be asked.
func (p *Provider) inherited(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.began) <= settling && !p.shown[id]
}

// unsettled reports whether a machine was made so lately that Fly may not know it yet.
func (p *Provider) unsettled(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	made, ok := p.fresh[id]
	if ok && time.Since(made) > settling {
		delete(p.fresh, id)
		return false
	}
	return ok
}

// machineID is the form of what may be a machine's id. Fly's are hexadecimal; nothing else is asked for, as it could not
// be one and might mean something in a URL.
var machineID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$`)

// Gateway returns the loopback address when the API is served on this computer: then so are its machines. It is
// fault.Unsupported otherwise, as [machine.Gateway] says: machines at Fly know no address of this computer's.
func (p *Provider) Gateway(context.Context) (netip.Addr, error) {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if u, err := url.Parse(p.options.URL); err == nil {
		if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || err == nil && ip.IsLoopback() {
			return loopback, nil
		}
	}
	return netip.Addr{}, wrap("gateway", fault.Say(fault.Unsupported, "they run at %s, which has no way to this computer by itself", p.client.host()))
}

// Get returns a machine as it is now, as [machine.Provider] says. A machine of the app that is not Dayfly's is
// fault.NotFound.
func (p *Provider) Get(ctx context.Context, id string) (*machine.Machine, error) {
	m, meta, err := p.get(ctx, id)
	if err != nil {
		return nil, wrap("machine "+plain(id, 64), err)
	}
	return m.view(meta), nil
}
