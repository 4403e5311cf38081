#pragma once

#include <utility>

#include <cmpool/model/view.h>

namespace cmpool::client {

/// The newest view that any server has told. A client's sessions share it: what one hears all say.
struct ViewBook {
    model::View view;
    bool news = false;  ///< nobody has acted on it yet

    void offer(const model::View& told) {
        if (told.epoch <= view.epoch) return;
        view = told;
        news = true;
    }
};

}  // namespace cmpool::client
