// Runs code that AOTInductor has compiled: `heliograph::open_package` and `heliograph::run_package`.
//
// PyTorch's own Python class for this holds the interpreter's lock for the whole of a run; an
// operator does not, so that other threads publish tokens and take jobs meanwhile.

#include <ATen/core/Tensor.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/library.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

using Loader = torch::inductor::AOTIModelPackageLoader;

std::mutex lock;
std::vector<std::unique_ptr<Loader>> packages;

int64_t open_package(const std::string& path) {
  auto package = std::make_unique<Loader>(path, "model");
  const std::lock_guard guard(lock);
  packages.push_back(std::move(package));
  return static_cast<int64_t>(packages.size()) - 1;
}

std::vector<at::Tensor> run_package(int64_t number, const std::vector<at::Tensor>& inputs) {
  Loader* package = nullptr;
  {
    const std::lock_guard guard(lock);
    package = packages.at(number).get();
  }
  return package->run(inputs);
}

}  // namespace

TORCH_LIBRARY_IMPL(heliograph, CompositeImplicitAutograd, library) {
  library.impl("open_package", &open_package);
  library.impl("run_package", &run_package);
}
