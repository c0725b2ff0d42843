package org.hllm4j;

import static com.tngtech.archunit.base.DescribedPredicate.describe;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAPackage;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.methods;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.Architectures.layeredArchitecture;

import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaModifier;
import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.junit.AnalyzeClasses;
import com.tngtech.archunit.junit.ArchTest;
import com.tngtech.archunit.lang.ArchRule;

/** The house rules: arrows point down, one room knows the bindings, no foreign memory in what users see. */
@AnalyzeClasses(packages = "org.hllm4j", importOptions = ImportOption.DoNotIncludeTests.class)
class ArchitectureTest {
    @ArchTest
    static final ArchRule NOTHING_POINTS_UP = layeredArchitecture()
            .consideringOnlyDependenciesInLayers()
            .layer("cli")
            .definedBy("org.hllm4j.cli..")
            .layer("train")
            .definedBy("org.hllm4j.train..")
            .layer("http")
            .definedBy("org.hllm4j.http..")
            .layer("serve")
            .definedBy("org.hllm4j.serve..")
            .layer("eval")
            .definedBy("org.hllm4j.eval..")
            .layer("run")
            .definedBy("org.hllm4j.run..")
            .layer("model")
            .definedBy("org.hllm4j.model..")
            .layer("nn")
            .definedBy("org.hllm4j.nn..")
            .layer("data")
            .definedBy("org.hllm4j.data..")
            .layer("text")
            .definedBy("org.hllm4j.text..")
            .layer("weights")
            .definedBy("org.hllm4j.weights..")
            .layer("engine")
            .definedBy("org.hllm4j.engine..")
            .layer("bindings")
            .definedBy("org.hllm4j.bindings..")
            .whereLayer("cli")
            .mayNotBeAccessedByAnyLayer()
            .whereLayer("train")
            .mayOnlyBeAccessedByLayers("cli")
            .whereLayer("http")
            .mayOnlyBeAccessedByLayers("cli")
            .whereLayer("serve")
            .mayOnlyBeAccessedByLayers("cli", "http")
            .whereLayer("eval")
            .mayOnlyBeAccessedByLayers("cli", "train", "serve")
            .whereLayer("run")
            .mayOnlyBeAccessedByLayers("cli", "train", "serve")
            .whereLayer("model")
            .mayOnlyBeAccessedByLayers("cli", "train", "serve", "eval", "run")
            .whereLayer("nn")
            .mayOnlyBeAccessedByLayers("train", "serve", "run", "model")
            .whereLayer("text")
            .mayOnlyBeAccessedByLayers("cli", "serve", "run")
            .whereLayer("bindings")
            .mayOnlyBeAccessedByLayers("engine");

    @ArchTest
    static final ArchRule THE_FLOOR_KNOWS_NOTHING_OF_THE_HOUSE = noClasses()
            .that()
            .resideInAnyPackage("org.hllm4j.engine..", "org.hllm4j.weights..", "org.hllm4j.text..", "org.hllm4j.data..")
            .should()
            .dependOnClassesThat()
            .resideInAnyPackage(
                    "org.hllm4j.nn..",
                    "org.hllm4j.model..",
                    "org.hllm4j.run..",
                    "org.hllm4j.train..",
                    "org.hllm4j.eval..",
                    "org.hllm4j.serve..",
                    "org.hllm4j.http..",
                    "org.hllm4j.cli..");

    @ArchTest
    static final ArchRule NO_FOREIGN_MEMORY_IN_PUBLIC_SIGNATURES = methods()
            .that()
            .arePublic()
            .and()
            .areDeclaredInClassesThat(describe("users can see", ArchitectureTest::visible))
            .should()
            .notHaveRawReturnType(resideInAPackage("java.lang.foreign.."))
            .andShould()
            .notHaveRawParameterTypes(describe(
                    "java.lang.foreign types",
                    types -> types.stream().anyMatch(t -> t.getPackageName().startsWith("java.lang.foreign"))));

    private static boolean visible(JavaClass type) {
        return type.getModifiers().contains(JavaModifier.PUBLIC)
                && !type.getPackageName().startsWith("org.hllm4j.bindings")
                && type.getEnclosingClass().map(ArchitectureTest::visible).orElse(true);
    }

    @ArchTest
    static final ArchRule ONLY_FLOOR_ROOMS_TOUCH_FOREIGN_MEMORY = noClasses()
            .that()
            .resideOutsideOfPackages("org.hllm4j.engine..", "org.hllm4j.weights..", "org.hllm4j.bindings..")
            .should()
            .dependOnClassesThat()
            .resideInAPackage("java.lang.foreign..");
}
