package machine

import (
	"fmt"
	"slices"

	"github.com/dayfly-run/dayfly/fault"
)

// Size is a machine's share of CPU, memory and disk. A zero field asks for the provider's default.
type Size struct {
	// Preset is the name the numbers came from, or "".
	Preset string `json:"preset,omitempty"`
	// CPUs is the number of processors; providers that can give shares accept fractions.
	CPUs float64 `json:"cpus,omitempty"`
	// MemoryMB is the memory limit in MiB.
	MemoryMB int `json:"memory_mb,omitempty"`
	// DiskMB is how much the machine may write, in MiB.
	DiskMB int `json:"disk_mb,omitempty"`
	// Processes is how many processes and threads may exist in the machine at once.
	Processes int `json:"processes,omitempty"`
	// GPU is the kind of GPU, or "".
	GPU string `json:"gpu,omitempty"`
}

// IsZero reports whether nothing is asked for.
func (s Size) IsZero() bool { return s == Size{} }

type preset struct {
	name     string
	cpus     float64
	memoryMB int
	gpu      string
}

// The vocabulary is that of Fly Machines' presets with their documented CPU counts and memory, so that a size means
// the same wherever a job runs.
func presets() []preset {
	return []preset{
		{"shared-cpu-1x", 1, 256, ""},
		{"shared-cpu-2x", 2, 512, ""},
		{"shared-cpu-4x", 4, 1024, ""},
		{"shared-cpu-8x", 8, 2048, ""},
		{"performance-1x", 1, 2048, ""},
		{"performance-2x", 2, 4096, ""},
		{"performance-4x", 4, 8192, ""},
		{"performance-8x", 8, 16384, ""},
		{"performance-16x", 16, 32768, ""},
		{"a10", 8, 32768, "a10"},
		{"l40s", 8, 32768, "l40s"},
		{"a100-40gb", 8, 32768, "a100-pcie-40gb"},
		{"a100-80gb", 8, 32768, "a100-sxm4-80gb"},
	}
}

// Presets returns the names of the known sizes, smallest first, GPUs last.
func Presets() []string {
	var names []string
	for _, p := range presets() {
		names = append(names, p.name)
	}
	return names
}

// ParseSize returns the Size of a named preset, or fault.Invalid for a name that is not one of [Presets].
func ParseSize(name string) (Size, error) {
	all := presets()
	i := slices.IndexFunc(all, func(p preset) bool { return p.name == name })
	if i < 0 {
		return Size{}, fmt.Errorf("machine: %w: unknown size %q; the sizes are %v", fault.Invalid, name, Presets())
	}
	p := all[i]
	return Size{Preset: p.name, CPUs: p.cpus, MemoryMB: p.memoryMB, GPU: p.gpu}, nil
}
