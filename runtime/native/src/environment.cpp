#include "environment.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>

#include "edgestill.h"
#include "model.h"

namespace edgestill {

namespace {

using json = nlohmann::ordered_json;

std::string first_line(const std::string &path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// The processor's name: x86 says "model name", a board its own name in the device tree, ARM at least "CPU part".
std::string processor(const char *machine) {
    std::ifstream file("/proc/cpuinfo");
    std::string line, part;
    while (std::getline(file, line)) {
        const size_t colon = line.find(": ");
        if (colon == std::string::npos) continue;
        const std::string name = line.substr(0, line.find_first_of("\t:"));
        if (name == "model name" || name == "Hardware" || name == "uarch") return line.substr(colon + 2);
        if (name == "CPU part" && part.empty()) part = line.substr(colon + 2);
    }
    std::string board = first_line("/proc/device-tree/model");
    while (!board.empty() && board.back() == '\0') board.pop_back();
    if (!board.empty()) return board;
    return part.empty() ? machine : std::string(machine) + ", part " + part;
}

// Clocks (MHz) and governors of the cores, as far as the kernel says.
void add_clocks(json &value, long cores) {
    std::set<std::string> governors;
    json clocks = json::array();
    for (long core = 0; core < cores; ++core) {
        const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/";
        const std::string governor = first_line(folder + "scaling_governor");
        const std::string kilohertz = first_line(folder + "scaling_cur_freq");
        if (!governor.empty()) governors.insert(governor);
        if (!kilohertz.empty()) clocks.push_back(std::atof(kilohertz.c_str()) / 1e3);
    }
    std::string all;
    for (const std::string &one : governors) all += (all.empty() ? "" : ", ") + one;
    value["governor"] = all.empty() ? json() : json(all);
    value["clock_mhz"] = clocks;
}

json temperatures() {
    json found = json::object();
    for (int zone = 0; zone < 64; ++zone) {
        const std::string folder = "/sys/class/thermal/thermal_zone" + std::to_string(zone) + "/";
        const std::string name = first_line(folder + "type");
        const std::string millidegrees = first_line(folder + "temp");
        if (name.empty() || millidegrees.empty()) continue;
        found[found.contains(name) ? name + " " + std::to_string(zone) : name] = std::atof(millidegrees.c_str()) / 1e3;
    }
    return found;
}

uint64_t memory_bytes() {
#ifdef __APPLE__
    uint64_t bytes = 0;
    size_t size = sizeof bytes;
    return sysctlbyname("hw.memsize", &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
#else
    return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
#endif
}

}  // namespace

json kilobytes_of(const char *path, const char *name) {
    std::ifstream file(path);
    std::string line;
    const std::string begins = std::string(name) + ":";
    while (std::getline(file, line)) {
        if (line.compare(0, begins.size(), begins) == 0) return std::stoull(line.substr(begins.size())) * 1024;
    }
    return nullptr;
}

json environment_json() {
    utsname system{};
    uname(&system);
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const std::string load = first_line("/proc/loadavg");
    json value = {
        {"cpu", processor(system.machine)},
        {"cores", cores},
        {"memory_bytes", memory_bytes()},
        {"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
        {"python", nullptr},
        {"versions", {{"libedgestill", "ABI " + std::to_string(ES_ABI_VERSION)}, {"llama.cpp", llama_version()}}},
        {"load_average", load.empty() ? json() : json(std::atof(load.c_str()))},
        {"temperatures", temperatures()},
    };
    add_clocks(value, cores);
    return value;
}

}  // namespace edgestill
