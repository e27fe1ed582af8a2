package fly

import (
	"net/url"
	"slices"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// What Fly's machines cost, as it stood on PriceSource on PriceDate. To be compared with that page now and then.
const (
	PriceDate   = "2026-10-09"
	PriceSource = "https://docs.fly.io/about/pricing/"
)

// The prices per second in Ashburn, times an hour. A processor comes with the least memory that its kind has; more costs
// extra. Every other region costs so many times as much. GPUs are not on the page any more.
const (
	sharedCPU      machine.Rate = 3_047_400  // $0.0000008465 per second
	performanceCPU machine.Rate = 45_835_200 // $0.000012732 per second
	extraGB        machine.Rate = 8_337_600  // $0.000002316 per second
)

// markups returns what a machine costs in each region, in billionths of what it costs in Ashburn.
func markups() map[string]int64 {
	return map[string]int64{
		"ams": 1_038_461_538, "arn": 1_038_461_538, "cdg": 1_134_615_385, "dfw": 1_250_000_000, "ewr": 1_000_000_000,
		"fra": 1_153_846_154, "gru": 1_615_384_615, "iad": 1_000_000_000, "jnb": 1_302_884_615, "lax": 1_199_519_231,
		"lhr": 1_134_615_385, "nrt": 1_307_692_308, "ord": 1_250_000_000, "sin": 1_269_230_769, "sjc": 1_192_307_692,
		"syd": 1_269_230_769, "yyz": 1_115_384_615,
	}
}

var _ machine.Pricer = (*Provider)(nil)

// Price implements [machine.Pricer]: by processors, memory and region, per second in which a machine is started. The
// defaults of the provider count as for Create. A machine with a GPU, one that Fly does not have, and one in a region that
// is not on the list, such as a group of regions, have no known price. Machines of another server that speaks Fly's API
// are on somebody's own hardware and cost nothing here.
func (p *Provider) Price(size machine.Size, region string) (machine.Price, bool) {
	if !p.isFly() {
		return machine.Price{}, true
	}
	g, err := guestOf(p.sizeOf(size))
	if err != nil || g.GPUKind != "" {
		return machine.Price{}, false
	}
	k, cpu := shared(), sharedCPU
	if g.CPUKind == performance().name {
		k, cpu = performance(), performanceCPU
	}
	base := cpu.Times(float64(g.CPUs)) + extraGB.OfMiB(g.MemoryMB-g.CPUs*k.least)
	known := markups()
	most := int64(0)
	for _, name := range p.regionsOf(&machine.Spec{Region: region}) {
		markup, ok := known[name]
		switch {
		case name == "": // Fly decides
			for _, markup := range known {
				most = max(most, markup)
			}
		case !ok:
			return machine.Price{}, false
		}
		most = max(most, markup)
	}
	return machine.Price{Rate: base.PerBillion(most), Minimum: time.Second, Date: PriceDate}, true
}

// isFly reports whether the API is Fly's own, from outside or from inside its network.
func (p *Provider) isFly() bool {
	api, err := url.Parse(p.options.URL)
	return err == nil && slices.Contains([]string{"api.machines.dev", "_api.internal"}, api.Hostname())
}
