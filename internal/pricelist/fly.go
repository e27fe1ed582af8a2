package pricelist

import (
	"math"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/machine"
)

// FlyDate is the day on which Fly's prices were read from FlySource.
const (
	FlyDate   = "2026-10-09"
	FlySource = "https://docs.fly.io/about/pricing/"
)

// Fly's prices per second in Ashburn, times an hour. A processor comes with some memory; more of it costs extra. Every
// other region costs so many times as much. GPUs are not on the page any more.
const (
	flySharedCPU      machine.Rate = 3_047_400  // $0.0000008465 per second
	flyPerformanceCPU machine.Rate = 45_835_200 // $0.000012732 per second
	flyMemoryGB       machine.Rate = 8_337_600  // $0.000002316 per second, for memory beyond what is included

	flySharedMemoryMB      = 256  // included for each processor
	flyPerformanceMemoryMB = 2048 // included for each processor
)

// flyRegions returns what a machine costs in each region, in billionths of what it costs in Ashburn.
func flyRegions() map[string]int64 {
	return map[string]int64{
		"ams": 1_038_461_538, "arn": 1_038_461_538, "cdg": 1_134_615_385, "dfw": 1_250_000_000, "ewr": 1_000_000_000,
		"fra": 1_153_846_154, "gru": 1_615_384_615, "iad": 1_000_000_000, "jnb": 1_302_884_615, "lax": 1_199_519_231,
		"lhr": 1_134_615_385, "nrt": 1_307_692_308, "ord": 1_250_000_000, "sin": 1_269_230_769, "sjc": 1_192_307_692,
		"syd": 1_269_230_769, "yyz": 1_115_384_615,
	}
}

// Fly is the price list of Fly Machines: per second while a machine is started, by processors, memory and region.
type Fly struct{}

// Price implements [machine.Pricer]. Machines with a GPU, and those in regions that are not on the list, have no known
// price. A size without processors or memory is the smallest of its kind.
func (Fly) Price(size machine.Size, region string) (machine.Price, bool) {
	if size.GPU != "" {
		return machine.Price{}, false
	}
	markups := flyRegions()
	var regions []string
	for name := range strings.SplitSeq(region, ",") {
		if name = strings.TrimSpace(name); name != "" {
			regions = append(regions, name)
		}
	}
	if len(regions) == 0 { // Fly chooses
		for name := range markups {
			regions = append(regions, name)
		}
	}
	base := flyRate(size)
	return dearest(regions, func(region string) (machine.Price, bool) {
		markup, ok := markups[region]
		return machine.Price{Rate: base.PerBillion(markup), Minimum: time.Second, Date: FlyDate}, ok
	})
}

// flyRate is what a machine costs in Ashburn.
func flyRate(size machine.Size) machine.Rate {
	cpu, included := flySharedCPU, flySharedMemoryMB
	if strings.HasPrefix(size.Preset, "performance-") {
		cpu, included = flyPerformanceCPU, flyPerformanceMemoryMB
	}
	cpus := max(1, math.Ceil(size.CPUs)) // Fly has whole processors
	extra := max(0, size.MemoryMB-int(cpus)*included)
	return cpu.Times(cpus) + flyMemoryGB.OfMiB(extra)
}
