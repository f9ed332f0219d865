/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "map.h"
#include "runner.h"
#include "support.h"

TEST(set_get_replace_remove)
{
    struct fl_map *map;
    const uint32_t key = 5, other = 6;
    int a, b;

    CHECK_INT(fl_map_new(sizeof(key), &map), 0);
    CHECK(fl_map_get(map, &key) == NULL);
    CHECK_INT(fl_map_set(map, &key, &a), 0);
    CHECK(fl_map_get(map, &key) == &a);
    CHECK(fl_map_get(map, &other) == NULL);
    CHECK_INT(fl_map_set(map, &key, &b), 0);
    CHECK_INT(fl_map_count(map), 1);
    CHECK(fl_map_remove(map, &key) == &b);
    CHECK(fl_map_remove(map, &key) == NULL);
    CHECK_INT(fl_map_count(map), 0);
    fl_map_free(map);
}

/* Few keys and many removals, so that probe chains form and close. */
TEST(random_operations_agree_with_an_array)
{
    enum { KEYS = 2000 };
    static char values[KEYS];
    static void *model[KEYS];
    struct random random = {3};
    struct fl_map *map;
    size_t count = 0;

    CHECK_INT(fl_map_new(sizeof(uint32_t), &map), 0);
    for (int i = 0; i < 200000; i++) {
        const uint32_t key = random_below(&random, KEYS);

        if (random_below(&random, 2) == 0) {
            CHECK_INT(fl_map_set(map, &key, &values[key]), 0);
            count += model[key] == NULL;
            model[key] = &values[key];
        }
        else {
            CHECK(fl_map_remove(map, &key) == model[key]);
            count -= model[key] != NULL;
            model[key] = NULL;
        }
        CHECK_INT(fl_map_count(map), count);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        CHECK(fl_map_get(map, &key) == model[key]);
    }
    fl_map_free(map);
}

TEST(walking_gives_each_value_once)
{
    static char values[100];
    struct fl_map *map;
    size_t position = 0, seen = 0;
    void *value;

    CHECK_INT(fl_map_new(32, &map), 0);
    for (int i = 0; i < 100; i++) {
        uint8_t key[32] = {(uint8_t)i};

        CHECK_INT(fl_map_set(map, key, &values[i]), 0);
    }
    while ((value = fl_map_next(map, &position)) != NULL) {
        CHECK_INT(*(char *)value, 0);
        *(char *)value = 1;
        seen++;
    }
    CHECK_INT(seen, 100);
    fl_map_free(map);
}

TEST(a_failed_allocation_changes_nothing)
{
    struct fl_map *map = NULL;
    char value;
    uint32_t key = 0;

    for (int n = 0; n < 3; n++) {
        alloc_fail_after(n);
        CHECK_INT(fl_map_new(sizeof(key), &map), -ENOMEM);
        CHECK(map == NULL);
    }
    alloc_fail_after(-1);
    CHECK_INT(fl_map_new(sizeof(key), &map), 0);
    while (!alloc_has_failed()) {
        alloc_fail_after(0);
        CHECK_INT(fl_map_set(map, &key, &value),
                  alloc_has_failed() ? -ENOMEM : 0);
        key++;
    }
    alloc_fail_after(-1);
    CHECK_INT(fl_map_count(map), key - 1);
    for (uint32_t i = 0; i < key; i++) {
        CHECK(fl_map_get(map, &i) == (i < key - 1 ? &value : NULL));
    }
    fl_map_free(map);
}
